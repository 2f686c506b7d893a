"""The command line as a person meets it: files made, streams kept apart, exit codes, one clear line for a mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from minirnn_cli.main import app
from typer.testing import CliRunner

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
TRAIN = ["--hidden", "8", "--layers", "1", "--batch-size", "4", "--seq-length", "8"]
runner = CliRunner()


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "corpus.txt"
    path.write_text("to be or not to be, that is the question.\n" * 20, encoding="utf-8")
    return path


def test_train_sample_info(corpus: Path) -> None:
    done = runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "20"])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "data: 840 characters, 16 different" in done.stderr
    assert "training for 20 steps in checkpoints/corpus" in done.stderr
    assert "best validation loss" in done.stderr
    assert sorted(os.listdir("checkpoints/corpus")) == [
        "best.safetensors", "last.safetensors", "metrics.jsonl", "previous.safetensors",
    ]  # fmt: skip

    texts = [runner.invoke(app, ["sample", "--seed", "1", "--length", "40", "--prime", "to "]) for _ in range(2)]
    assert texts[0].exit_code == 0
    assert texts[0].stdout == texts[1].stdout
    assert texts[0].stdout.startswith("to ")
    assert len(texts[0].stdout) == len("to ") + 40 + len("\n")
    other = runner.invoke(app, ["sample", "--seed", "2", "--length", "40", "--prime", "to "])
    assert other.stdout != texts[0].stdout

    shown = json.loads(runner.invoke(app, ["info", "--json"]).stdout)
    assert shown["task"] == "char"
    assert shown["steps"] == 20
    assert shown["parameters"] == sum(int(__import__("math").prod(shape)) for shape in shown["arrays"].values())
    assert "vocab_size" in runner.invoke(app, ["info", "checkpoints/corpus"]).stdout


def test_json_lines_are_the_metrics_file(corpus: Path) -> None:
    done = runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "20", "--json", "--quiet"])
    assert done.stderr == ""
    assert done.stdout == Path("checkpoints/corpus/metrics.jsonl").read_text()
    assert all(json.loads(line)["train_loss"] > 0 for line in done.stdout.splitlines())


def test_runs_are_not_written_over(corpus: Path) -> None:
    for folder in ("checkpoints/corpus", "checkpoints/corpus-2", "checkpoints/corpus-3"):
        assert runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "1", "--quiet"]).exit_code == 0
        assert Path(folder, "last.safetensors").exists()
    refused = runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "1", "--out", "checkpoints/corpus"])
    assert refused.exit_code == 2
    assert "is not empty; continue its run by --resume, or choose another --out" in refused.stderr


def test_resume_goes_on_with_the_options_of_the_run(corpus: Path) -> None:
    """Only what is typed again changes; the budget too is the run's own."""
    assert runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "5", "--lr", "0.01"]).exit_code == 0
    spent = runner.invoke(app, ["train-char", str(corpus), "--resume"])
    assert spent.exit_code == 2
    assert "has used up its budget; give a larger one to continue" in spent.stderr
    done = runner.invoke(app, ["train-char", str(corpus), "--resume", "--steps", "9"])
    assert done.exit_code == 0, done.output
    assert "resuming at step 5, to 9 steps, in checkpoints/corpus" in done.stderr
    assert json.loads(Path("checkpoints/corpus/metrics.jsonl").read_text().splitlines()[-1])["step"] == 9
    shown = json.loads(runner.invoke(app, ["info", "--json"]).stdout)
    assert shown["options"]["lr"] == 0.01
    assert shown["model"]["hidden_size"] == 8
    other = runner.invoke(app, ["train-char", str(corpus), "--resume", "--steps", "12", "--hidden", "9"])
    assert other.exit_code == 2
    assert "--hidden was 8, now it is 9; leave it out, or start a new run" in other.stderr


def test_the_newest_run_is_taken_though_it_has_no_best(corpus: Path) -> None:
    for folder in ("old", "new"):
        runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "1", "--out", f"checkpoints/{folder}"])
    os.remove("checkpoints/new/best.safetensors")
    os.utime("checkpoints/new/last.safetensors", (4e9, 4e9))
    assert json.loads(runner.invoke(app, ["info", "--json"]).stdout)["file"] == "checkpoints/new/last.safetensors"


def test_nothing_is_written_before_a_mistake_is_found(corpus: Path) -> None:
    runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "1", "--quiet"])
    done = runner.invoke(app, ["sample", "--prime", "to", "--top-p", "-1"])
    assert done.exit_code == 2
    assert done.stdout == ""


def test_a_reader_of_json_lines_that_leaves(corpus: Path) -> None:
    """Training stops, is saved, and the fault shows in the exit code."""
    command = (
        f"{sys.executable} -m minirnn_cli.main train-char corpus.txt {' '.join(TRAIN)} --epochs 1e6 --json --quiet"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert Path("checkpoints/corpus/last.safetensors").exists()


def test_sample_options(corpus: Path) -> None:
    runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "2", "--quiet"])
    done = runner.invoke(app, ["sample", "--num", "3", "--json", "--length", "5", "--seed", "4"])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(line["text"]) for line in lines] == [5, 5, 5]
    assert len({line["text"] for line in lines}) > 1
    strange = runner.invoke(app, ["sample", "--prime", "to ☃", "--length", "3"])
    assert strange.exit_code == 0
    assert "does not know '☃'" in strange.stderr
    hopeless = runner.invoke(app, ["sample", "--prime", "☃", "--length", "3"])
    assert hopeless.exit_code == 2
    assert "no character of the prime '☃'" in hopeless.stderr
    stopped = runner.invoke(app, ["sample", "--stop", "e", "--length", "2000", "--seed", "1", "--prime", "t"])
    assert stopped.stdout.rstrip("\n").endswith("e")
    assert stopped.stdout.count("e") == 1


def test_recompute_trains_alike(corpus: Path) -> None:
    """Long sequences in pieces: the same course of training, but for rounding."""
    courses = []
    for extra in ([], ["--recompute", "7"]):
        arguments = ["train-char", str(corpus), *TRAIN, "--seq-length", "30", "--dropout", "0", "--steps", "8"]
        done = runner.invoke(app, [*arguments, *extra, "--json", "--quiet"])
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        courses.append([(line["step"], line["train_loss"], line["grad_norm"]) for line in lines if "grad_norm" in line])
    assert courses[0] == [pytest.approx(line, rel=1e-4) for line in courses[1]]


def test_bytes_and_several_files(corpus: Path) -> None:
    binary = Path("noise.bin")
    binary.write_bytes(bytes(range(256)) * 8)
    assert runner.invoke(app, ["train-char", str(binary), *TRAIN, "--steps", "1"]).exit_code == 2
    done = runner.invoke(app, ["train-char", "--bytes", str(binary), str(corpus), *TRAIN, "--steps", "1", "--out", "b"])
    assert done.exit_code == 0, done.output
    text = runner.invoke(app, ["sample", "b", "--length", "30", "--seed", "0", "--prime", "é"])
    assert text.exit_code == 0
    assert text.stdout.startswith("é")


def test_standard_input(corpus: Path) -> None:
    done = runner.invoke(app, ["train-char", "-", *TRAIN, "--steps", "1", "--quiet"], input=corpus.read_bytes())
    assert done.exit_code == 0, done.output
    assert Path("checkpoints/stdin/best.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-char", "nowhere.txt"], "cannot read nowhere.txt: No such file or directory"),
        (["train-char", "@perl"], "corpus '@perl' is unknown; built in: @python"),
        (["train-char", "short.txt"], "the corpus has only 2 symbols"),
        (["train-char", "corpus.txt", "--steps", "3", "--epochs", "2"], "one budget of steps, epochs, minutes"),
        (["train-char", "corpus.txt", "--lr", "-1"], "x>=0"),
        (["train-char", "corpus.txt", "--cell", "elman"], "elman"),
        (["train-char", "corpus.txt", "--hidden", "0"], "hidden"),
        (["train-char", "corpus.txt", "--resume"], "there is no checkpoint"),
        (["train-char", "corpus.txt", "--out", "corpus.txt"], "cannot write to corpus.txt"),
        (["train-char", "corpus.txt", "--minutes", "inf"], "minutes: expected a finite number"),
        (["train-char"], "data"),
        (["sample"], "no checkpoint under checkpoints/; train one first"),
        (["sample", "nowhere"], "there is no checkpoint nowhere"),
        (["sample", "corpus.txt"], "is not a checkpoint, or damaged"),
        (["info", "."], "no checkpoint in ."),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(corpus: Path, arguments: list[str], message: str) -> None:
    Path("short.txt").write_text("ab")
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert message.lower() in done.stderr.lower()
    assert "Traceback" not in done.output
    assert done.stdout == ""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(corpus: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "minirnn_cli.main", "train-char", str(corpus), *TRAIN, "--epochs", "1e6"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = Path("checkpoints/corpus/metrics.jsonl")
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") >= 2:
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "continue with --resume" in errors
    assert "Traceback" not in errors
    assert Path("checkpoints/corpus/last.safetensors").exists()


def test_a_reader_that_leaves_is_no_error(corpus: Path) -> None:
    runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "1", "--quiet"])
    command = f"{sys.executable} -m minirnn_cli.main sample --length {2000 if SMALL else 200000} | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert len(done.stdout) == 10
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_version_and_help() -> None:
    assert runner.invoke(app, ["--version"]).stdout.strip().count(".") == 2
    assert "train-char" in runner.invoke(app, ["--help"]).stdout


def test_warmup_compiles_everything_training_needs(tmp_path: Path) -> None:
    done = runner.invoke(app, ["warmup", "--json", "--quiet"])
    assert done.exit_code == 0
    assert set(json.loads(done.stdout)) == {"compiled", "seconds", "cache"}


@pytest.mark.needs_jit
def test_bench() -> None:
    done = runner.invoke(app, ["bench", "lstm-1x100", "sample-2x128", "--alone", "--seconds", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    head, step, sampling = map(json.loads, done.stdout.splitlines())
    assert head["product_gflops"] > 0
    assert (step["row"], sampling["row"]) == ("lstm-1x100", "sample-2x128")
    assert step["seconds"].keys() == {"minirnn"}
    assert step["gflop"] == pytest.approx(25 * (6 * 2 * 100 * 400 + 6 * 100 * 65) / 1e9)
    assert 0 < sampling["seconds"]["minirnn"] < 0.1
    assert "measuring lstm-1x100" in done.stderr


def test_resume_goes_on_from_the_state_before_a_damaged_last_one(corpus: Path) -> None:
    for name, damage in {"cut": lambda path: os.truncate(path, 100), "gone": os.unlink}.items():
        done = runner.invoke(
            app, ["train-char", str(corpus), *TRAIN, "--steps", "6", "--save-every", "2", "--out", name]
        )
        assert done.exit_code == 0, done.output
        damage(Path(name, "last.safetensors"))
        done = runner.invoke(app, ["train-char", str(corpus), "--steps", "8", "--out", name, "--resume"])
        assert done.exit_code == 0, done.output
        assert "continuing from previous.safetensors, the state saved before it" in done.stderr
        assert json.loads(Path(name, "metrics.jsonl").read_text().splitlines()[-1])["step"] == 8


def test_the_newest_run_of_a_name_with_signs_of_patterns(corpus: Path) -> None:
    Path("a[1].txt").write_text("some text to learn from. " * 30)
    for _ in range(2):
        assert runner.invoke(app, ["train-char", "a[1].txt", *TRAIN, "--steps", "3"]).exit_code == 0
    done = runner.invoke(app, ["train-char", "a[1].txt", "--steps", "5", "--resume"])
    assert "resuming at step 3, to 5 steps, in checkpoints/a[1]-2" in done.stderr, done.output


def test_sample_finds_the_newest_character_model(corpus: Path) -> None:
    done = runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "2"])
    assert done.exit_code == 0, done.output
    Path("reviews.tsv").write_text("a good film\tpos\na bad film\tneg\n" * 8)
    done = runner.invoke(app, ["train-classifier", "reviews.tsv", "--steps", "1", "--hidden", "4"])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["sample", "--length", "5", "--seed", "1"])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["sample", "checkpoints/reviews"])
    assert done.exit_code == 2
    assert "holds a 'classifier' model; expected a character model" in done.stderr


def test_input_of_predict(corpus: Path) -> None:
    """Lines are those of training, whichever way they come; folders and missing files are no texts."""
    Path("reviews.tsv").write_text("a good film\tpos\na bad film\tneg\n" * 8)
    assert runner.invoke(app, ["train-classifier", "reviews.tsv", "--steps", "1", "--hidden", "4"]).exit_code == 0
    text = "a good\u2028film\r\nbad\x0cfilm\rgood\ufeff"
    Path("in.txt").write_bytes(text.encode())
    expected = ["a good\u2028film", "bad\x0cfilm", "good"]
    for arguments, typed in (([text], None), (["in.txt"], None), ([], text), (["-"], text)):
        done = runner.invoke(
            app,
            ["predict", "checkpoints/reviews", *arguments, "--json"],
            input=None if typed is None else typed.encode(),
        )
        assert done.exit_code == 0, done.output
        found = [json.loads(line)["text"].removesuffix("\ufeff") for line in done.stdout.split("\n") if line]
        assert found == expected, arguments
    for argument, message in {
        ".": ". is a folder; expected a file, or a text", "no.json": "there is no file no.json",
        "./no": "there is no file ./no",
    }.items():  # fmt: skip
        done = runner.invoke(app, ["predict", "checkpoints/reviews", argument])
        assert (done.exit_code, done.stderr.strip()) == (2, f"minirnn: {message}")
    Path("bad.txt").write_bytes(b"good\n\xff\n")
    done = runner.invoke(app, ["predict", "checkpoints/reviews", "bad.txt"])
    assert done.exit_code == 2
    assert "bad.txt:2: byte 0 of the line is not UTF-8 text" in done.stderr


def test_names_too_long_and_too_little_memory(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = runner.invoke(app, ["eval", "x" * 3000, str(corpus)])
    assert done.exit_code == 2
    assert len(done.stderr) < 200

    def hungry(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("minirnn.tasks.char.read_corpus", hungry)
    done = runner.invoke(app, ["train-char", str(corpus), "--steps", "1"])
    assert done.exit_code == 1
    assert done.stderr.startswith("minirnn: not enough memory (Unable to allocate 9 TiB); lower --hidden")


def test_measures_that_are_not_finite_are_null(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner.invoke(app, ["train-char", str(corpus), *TRAIN, "--steps", "1"]).exit_code == 0
    monkeypatch.setattr("minirnn.tasks.char.TextGenerator.measure", lambda *_: {"loss": float("inf")})
    done = runner.invoke(app, ["eval", "checkpoints/corpus", str(corpus), "--json"])
    assert json.loads(done.stdout) == {"loss": None}
