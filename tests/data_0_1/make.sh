#!/bin/sh
# Makes the runs in this folder with minirnn 0.1, whose checkpoints and runs later versions must read; see
# tests/test_data_0_1.py. Needs its source:  git archive 2c58a13 | tar x -C /tmp/old;  sh make.sh /tmp/old
set -e
export PYTHONPATH="$1:$1/cli:$1/tests"
cd "$(dirname "$0")"

python - <<'PY'
from pathlib import Path
from tiny import TASKS

for name, tiny in TASKS.items():
    Path(name).mkdir()
    tiny.write(Path(name))
    if name not in ("classifier", "tagger"):
        Path(name, "vectors.txt").unlink()
Path("music/own.py").write_text("""import minirnn as mr
from minirnn.cells import sigmoid, tanh


@mr.cell
def peephole(i, f, g, o, /, h, c, *, p_i=0, p_f=0):
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o) * tanh(c), c
""")
PY

minirnn() { task=$1; shift; (cd "$task" && python -m minirnn_cli.main "$@"); }
train() {
    task=$1; shift
    minirnn "$task" "train-$task" "$@" --out run --steps 3 --hidden 4 --batch-size 8 --quiet
    rm "$task/run/best.safetensors" "$task/run/previous.safetensors"
}
train char corpus.txt --cell gru --layers 2 --seq-length 8 --dropout 0.1 --recompute 4 --lr 0.01
train classifier reviews.tsv --level word --keep-case --embeddings vectors.txt --pooling attention --dropout 0.3
train tagger tagged.tsv --embeddings vectors.txt --freeze --column 3 --one-way --cell rnn --optimizer sgd --lr 0.5
train translator pairs.tsv --min-count 1 --schedule linear --teacher-forcing-end 0.5 --attention dot \
    --embedding-size 3 --optimizer sgd --lr 0.5 --layers 2
train forecaster series.csv --inputs b --base last --seq-length 6 --horizon 2 --cell peephole_lstm
train music tunes.json --cell own.py:peephole --zoneout 0.1 --recurrent-dropout 0.2 --weight-drop 0.3 --transpose 2 \
    --optimizer rmsprop --layers 1 --seq-length 7

# What 0.1 says of them: a command and its result, eval, and the metrics of a resumed run but for the seconds
python - <<'PY'
import json
import shutil
import subprocess
import sys
from pathlib import Path

USES = {
    "char": ("corpus.txt", "sample run --prime to --length 20 --seed 3 --json"),
    "classifier": ("reviews.tsv", "predict run bad --json"),
    "tagger": ("tagged.tsv", "predict run dog --json"),
    "translator": ("pairs.tsv", "predict run Tom --json"),
    "forecaster": ("series.csv", "predict run series.csv --json"),
    "music": ("tunes.json", "predict run C4,E4,G4 --length 6 --seed 3 --json"),
}


def minirnn(task, *arguments):
    command = [sys.executable, "-m", "minirnn_cli.main", *arguments]
    return subprocess.run(command, cwd=task, capture_output=True, text=True, check=True).stdout


expected = {}
for task, (data, use) in USES.items():
    measured = json.loads(minirnn(task, "eval", "run", data, "--json"))
    made = {"data": data, "use": use, "result": json.loads(minirnn(task, *use.split())), "eval": measured}
    shutil.copytree(f"{task}/run", f"{task}/more")
    minirnn(task, f"train-{task}", data, "--out", "more", "--resume", "--steps", "6", "--quiet")
    lines = [json.loads(line) for line in Path(task, "more/metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(f"{task}/more")
    made["resumed"] = [{key: value for key, value in line.items() if key != "seconds"} for line in lines[3:]]
    expected[task] = made
lines = [f"{json.dumps(task)}: {json.dumps(made, ensure_ascii=False)}" for task, made in expected.items()]
Path("expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
PY
