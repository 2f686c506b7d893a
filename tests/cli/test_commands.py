"""The command line in general: files made, streams kept apart, exit codes, one clear line for a mistake."""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from minirnn_cli.runs import run_name
from support import invoke, json_of, metrics_of, refusal

from minirnn.runs import BEST, LAST

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
SIZES = ("--hidden", "8", "--layers", "1", "--batch-size", "4", "--seq-length", "8")
TRAIN = ("train-char", "corpus.txt", *SIZES, "--quiet")
REVIEWS = "a good film\tpos\na bad film\tneg\n" * 8


@pytest.fixture(autouse=True)
def corpus() -> None:
    Path("corpus.txt").write_text("to be or not to be, that is the question.\n" * 20, encoding="utf-8")


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# --------------------------------------------------------------------------------------------------- training


def test_json_prints_the_lines_of_the_metrics_file() -> None:
    done = invoke(*TRAIN, "--steps", "20", "--json")
    assert done.stderr == ""
    assert done.stdout == Path("checkpoints/corpus/metrics.jsonl").read_text()
    assert all(line["train_loss"] > 0 for line in lines(done.stdout))


def test_a_run_is_not_overwritten() -> None:
    for folder in ("checkpoints/corpus", "checkpoints/corpus-2", "checkpoints/corpus-3"):
        invoke(*TRAIN, "--steps", "1")
        assert Path(folder, "last.safetensors").exists()
    message = "checkpoints/corpus is not empty; continue its run by --resume, or choose another --out"
    assert refusal(*TRAIN, "--steps", "1", "--out", "checkpoints/corpus") == message


def test_the_newest_run_is_used_even_without_its_best_state() -> None:
    for folder in ("old", "new"):
        invoke(*TRAIN, "--steps", "1", "--out", f"checkpoints/{folder}")
    os.remove("checkpoints/new/best.safetensors")
    os.utime("checkpoints/new/last.safetensors", (4e9, 4e9))
    assert json_of("info")["file"] == "checkpoints/new/last.safetensors"


def test_recompute_trains_with_the_same_numbers() -> None:
    """But for rounding."""
    courses = []
    for extra in ((), ("--recompute", "7")):
        options = ("--seq-length", "30", "--dropout", "0", "--weight-drop", "0", "--steps", "8", "--json", *extra)
        found = [
            (line["step"], line["train_loss"], line["grad_norm"]) for line in lines(invoke(*TRAIN, *options).stdout)
        ]
        courses.append(found)
    assert courses[0] == [pytest.approx(line, rel=1e-4) for line in courses[1]]


def test_bytes_of_several_files() -> None:
    Path("noise.bin").write_bytes(bytes(range(256)) * 8)
    assert "noise.bin" in refusal("train-char", "noise.bin", *SIZES, "--steps", "1")
    invoke("train-char", "--bytes", "noise.bin", "corpus.txt", *SIZES, "--steps", "1", "--out", "b")
    assert invoke("sample", "b", "--length", "30", "--seed", "0", "--prime", "é").stdout.startswith("é")


@pytest.mark.parametrize("name", ["char", "forecaster"])
def test_standard_input_is_training_data(name: str) -> None:
    data = Path("corpus.txt").read_bytes() if name == "char" else b"a\n" + b"1\n2\n4\n" * 20
    done = invoke(f"train-{name}", "-", "--hidden", "4", "--seq-length", "6", "--steps", "1", "--quiet", input=data)
    assert done.output == ""
    assert Path("checkpoints/stdin/best.safetensors").exists()


def test_metrics_that_are_not_finite_are_null(monkeypatch: pytest.MonkeyPatch) -> None:
    invoke(*TRAIN, "--steps", "1")
    monkeypatch.setattr("minirnn.tasks.char.TextGenerator.measure", lambda *_: {"loss": math.inf})
    assert json_of("eval", "checkpoints/corpus", "corpus.txt") == {"loss": None}


def test_info_shows_the_model() -> None:
    invoke(*TRAIN, "--steps", "3")
    shown = json_of("info")
    assert (shown["task"], shown["steps"], shown["resumable"]) == ("char", 3, False)  # the best state
    assert shown["parameters"] == sum(math.prod(shape) for shape in shown["arrays"].values())
    assert shown["best_val_loss"] == min(line["val_loss"] for line in metrics_of("checkpoints/corpus"))
    assert "vocab_size: 16\n" in invoke("info", "checkpoints/corpus").stdout


# ----------------------------------------------------------------------------------------- sample and predict


def test_sample_depends_on_its_seed(trained: Callable[[str], Path]) -> None:
    run = str(trained("char"))
    options = ("--length", "40", "--prime", "to ")
    one, same, other = (invoke("sample", run, *options, "--seed", seed).stdout for seed in "112")
    assert one == same != other
    assert one.startswith("to ")
    assert len(one) == len("to ") + 40 + len("\n")
    texts = [line["text"] for line in lines(invoke("sample", run, "--num", "3", "--json", "--length", "5").stdout)]
    assert [len(text) for text in texts] == [5, 5, 5]
    assert len(set(texts)) > 1


def test_sample_stops_at_a_string_and_leaves_out_unknown_characters(trained: Callable[[str], Path]) -> None:
    run = str(trained("char"))
    assert "the model does not know '☃'" in invoke("sample", run, "--prime", "to ☃", "--length", "3").stderr
    assert refusal("sample", run, "--prime", "☃", "--quiet").startswith("no character of the prime '☃'")
    text = invoke("sample", run, "--stop", "e", "--length", "2000", "--seed", "1", "--prime", "t").stdout
    assert text.rstrip("\n").endswith("e")
    assert text.count("e") == 1


def test_sample_uses_the_newest_character_model() -> None:
    invoke(*TRAIN, "--steps", "2")
    Path("reviews.tsv").write_text(REVIEWS)
    invoke("train-classifier", "reviews.tsv", "--steps", "1", "--hidden", "4")
    assert len(invoke("sample", "--length", "5", "--seed", "1").stdout) == 5 + len("\n")


def test_predict_splits_lines_as_training_data_is_split(trained: Callable[[str], Path]) -> None:
    """Whichever way they come; folders and missing files are not texts."""
    run, text = str(trained("classifier")), "a good\u2028film\r\nbad\x0cfilm\rgood\ufeff"
    Path("in.txt").write_bytes(text.encode())
    for arguments, typed in (((text,), None), (("in.txt",), None), ((), text.encode()), (("-",), text.encode())):
        found = lines_of_json(invoke("predict", run, *arguments, "--json", input=typed).stdout)
        assert [one["text"].removesuffix("\ufeff") for one in found] == ["a good\u2028film", "bad\x0cfilm", "good"]
    assert refusal("predict", run, ".") == ". is a folder; expected a file, or a text"
    for name in ("no.json", "./no"):
        assert refusal("predict", run, name) == f"there is no file {name}"


def lines_of_json(text: str) -> list[dict]:
    """Split at line feeds only."""
    return [json.loads(line) for line in text.split("\n") if line]


# --------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train-char", "nowhere.txt"), "cannot read nowhere.txt: No such file or directory"),
        (("train-char", "@perl"), "corpus '@perl' is unknown; built in: @python"),
        (("train-char", "short.txt"), "the corpus has only 2 symbols"),
        (("train-char", "corpus.txt", "--steps", "3", "--epochs", "2"), "expected one budget of steps, epochs"),
        (("train-char", "corpus.txt", "--resume"), "there is no checkpoint"),
        (("train-char", "corpus.txt", "--out", "corpus.txt"), "cannot write to corpus.txt"),
        (("sample",), "no checkpoint under checkpoints/; train one first"),
        (("sample", "nowhere"), "there is no checkpoint nowhere"),
        (("sample", "corpus.txt"), "corpus.txt is not a checkpoint, or damaged"),
        (("info", "."), "no checkpoint in ."),
        (("eval", "x" * 3000, "corpus.txt"), "File name too long: " + "x" * 60),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    Path("short.txt").write_text("ab")
    said = refusal(*arguments)
    assert said.startswith(message)
    assert len(said) < 200


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("train-char",), "data"), (("frobnicate",), "frobnicate"), (("train-char", "corpus.txt", "--lr", "-1"), "x>=0")],
)
def test_wrong_usage_has_exit_code_2(arguments: tuple[str, ...], word: str) -> None:
    done = invoke(*arguments, code=2)
    assert word in done.stderr.lower()
    assert done.stdout == ""


def test_too_little_memory_has_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("minirnn.tasks.char.read_corpus", hungry)
    message = "not enough memory (Unable to allocate 9 TiB); lower --hidden, --batch-size or --seq-length"
    assert refusal("train-char", "corpus.txt", "--steps", "1", code=1) == message


# ------------------------------------------------------------------------------------------ processes, system


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a pipeline in which ``minirnn`` is the command in a process of its own."""
    command = command.replace("minirnn", f"{sys.executable} -m minirnn")
    arguments = ["bash", "-c", f"set -o pipefail; {command}"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


def test_a_closed_pipe_of_json_lines_ends_and_saves_training() -> None:
    done = shell(f"minirnn {' '.join(TRAIN)} --epochs 1e6 --json | head -n 1")
    assert (done.returncode, done.stderr) == (1, "")
    assert Path("checkpoints/corpus/last.safetensors").exists()


def test_a_closed_pipe_of_a_sample_is_not_an_error(trained: Callable[[str], Path]) -> None:
    done = shell(f"minirnn sample {trained('char')} --length {2000 if SMALL else 200000} --quiet | head -c 10")
    assert (len(done.stdout), done.stderr) == (10, "")


def test_warmup_reports_what_it_compiled() -> None:
    assert json_of("warmup", "--quiet").keys() == {"compiled", "seconds", "cache"}


@pytest.mark.slow
@pytest.mark.needs_jit
def test_bench_measures_its_rows() -> None:
    done = invoke("bench", "lstm-1x100", "sample-2x128", "--alone", "--seconds", "0.1", "--json")
    head, step, sampling = lines(done.stdout)
    assert head["product_gflops"] > 0
    assert (step["row"], sampling["row"]) == ("lstm-1x100", "sample-2x128")
    assert step["seconds"].keys() == {"minirnn"}
    assert step["gflop"] == pytest.approx(25 * (6 * 2 * 100 * 400 + 6 * 100 * 65) / 1e9)
    assert 0 < sampling["seconds"]["minirnn"] < 0.1
    assert "measuring lstm-1x100" in done.stderr


@pytest.mark.slow
@pytest.mark.needs_jit
@pytest.mark.needs_bfloat16
def test_bench_of_bf16_measures_fp32_beside_it() -> None:
    _, step = lines(
        invoke("bench", "lstm-1x100", "--alone", "--seconds", "0.1", "--json", "--precision", "bf16").stdout
    )
    assert step["seconds"].keys() == {"minirnn", "minirnn fp32"}
    assert step["ratio"].keys() == {"minirnn fp32"}
    message = "--precision: sampling has no bf16, got sample-2x128; give --weights bf16"
    assert refusal("bench", "sample-2x128", "--precision", "bf16").splitlines()[-1] == message


def test_what_is_made_of_a_checkpoint_has_the_name_of_its_run_or_its_own(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for file, name in ((BEST, "run"), (LAST, "run"), ("previous.safetensors", "run"), ("kept.safetensors", "kept")):
        assert run_name(tmp_path / "run" / file) == run_name(tmp_path / "run/../run" / file) == name
    with contextlib.chdir(tmp_path / "run"):
        assert run_name(Path(BEST)) == "run"
