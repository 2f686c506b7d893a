"""``train-series``, ``predict`` and ``eval`` with ``.npz`` and ``.ts`` files, and of anomalies."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import invoke, json_of, refusal

TRAIN = ("--hidden", "4", "--batch-size", "4", "--steps", "4")
X = np.random.default_rng(0).normal(size=(12, 6, 2)).round(3)


def test_the_same_numbers_in_every_format() -> None:
    """A model is the same, and so are its predictions, whatever file they come from."""
    labels = ["ab"[n % 2] for n in range(12)]
    np.savez("a.npz", x=X, y=np.array(labels))
    rows = ((n, *x, labels[n]) for n, part in enumerate(X) for x in part.tolist())
    Path("b.csv").write_text("n,x0,x1,l\n" + "".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    cases = [":".join(",".join(map(str, column)) for column in part.T.tolist()) for part in X]
    lines = "\n".join(f"{case}:{label}" for case, label in zip(cases, labels, strict=True))
    Path("c.ts").write_text(f"@classLabel true a b\n@data\n{lines}\n", encoding="utf-8")
    files = {"a.npz": (), "b.csv": ("--id", "n"), "c.ts": ()}
    for file, options in files.items():
        invoke("train-series", file, *options, *TRAIN, "--quiet")
    measured = [json_of("eval", f"checkpoints/{file[0]}", file) for file in files]
    assert measured[0] == measured[1] == measured[2]
    printed = invoke("predict", "checkpoints/b", "b.csv").stdout
    assert [line.split("\t")[0] for line in printed.splitlines()] == [str(n) for n in range(12)]
    assert invoke("predict", "checkpoints/a", "a.npz").stdout == printed
    by_line = invoke("predict", "checkpoints/c", "c.ts").stdout.splitlines()
    assert [line.split("\t")[1] for line in by_line] == [line.split("\t")[1] for line in printed.splitlines()]
    assert invoke("predict", "checkpoints/b", "-", input=Path("b.csv").read_bytes()).stdout == printed
    assert refusal("predict", "checkpoints/a", "nowhere.npz") == "cannot read nowhere.npz: No such file or directory"
    np.savez("wide.npz", x=np.zeros((2, 3, 5)))
    assert refusal("predict", "checkpoints/a", "wide.npz").endswith("sequence 0: expected 2 columns (x0, x1), got 5")
    assert refusal("eval", "checkpoints/a", "wide.npz").endswith("sequence 0: expected 2 columns (x0, x1), got 5")


def test_labels_of_steps_are_lines() -> None:
    np.savez("a.npz", x=X, y=(X[:, :, 0] > 0).astype(int))
    invoke("train-series", "a.npz", "--every-step", *TRAIN, "--quiet")
    facts = [json.loads(line) for line in invoke("predict", "checkpoints/a", "a.npz", "--json").stdout.splitlines()]
    printed = invoke("predict", "checkpoints/a", "a.npz").stdout
    assert printed == "".join(f"{one['id']}\t{label}\n" for one in facts for label in one["labels"])
    assert len(printed.splitlines()) == 72
    assert json_of("eval", "checkpoints/a", "a.npz").keys() == {"loss", "accuracy", "macro_f1"}


def test_anomalies() -> None:
    rows = [f"{n},{t % 4},{'odd' if n == 5 else 'normal'}" for n in range(12) for t in range(9)]
    Path("a.csv").write_text("\n".join(["n,x,l", *rows]), encoding="utf-8")
    options = ("--anomalies", "--id", "n", "--seq-length", "4", "--quantile", "0.5", *TRAIN)
    done = invoke("train-series", "a.csv", *options, "--label", "l")
    assert "12 sequences of 1 columns, 9 to 9 steps; to find anomalies\n" in done.stderr
    measured = json_of("eval", "checkpoints/a", "a.csv")
    assert measured.keys() == {"loss", "anomalies", "auc"}
    assert measured["auc"] == 0.5  # all are equal
    found = [json.loads(line) for line in invoke("predict", "checkpoints/a", "a.csv", "--json").stdout.splitlines()]
    assert measured["loss"] == pytest.approx(np.mean([one["errors"] for one in found]))
    assert measured["anomalies"] == pytest.approx(sum(len(one["anomalies"]) for one in found) / 108)
    line = invoke("predict", "checkpoints/a", "a.csv").stdout.splitlines()[3]
    assert line == f"3\t{found[3]['score']:.6g}\t{','.join(map(str, found[3]['anomalies']))}"
    invoke("train-series", "a.csv", *options, "--inputs", "x", "--out", "unlabelled")
    assert json_of("eval", "unlabelled", "a.csv").keys() == {"loss", "anomalies"}
    assert "expected a trained task or a model" in refusal("export", "unlabelled", "-o", "model.py")
    invoke("train-series", "a.csv", "--id", "n", "--init-from", "unlabelled", "--inputs", "x", *TRAIN[2:], "--quiet")
    assert json_of("info")["preprocessor"]["kind"] == "anomaly"
