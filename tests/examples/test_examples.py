"""Every example runs, with a small budget, in a process of its own, and draws its picture."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SHORTENED = {
    "adding_problem.py": ["--length", "10", "--steps", "8"],
    "caption_shapes.py": ["--steps", "4", "--condition", "every_step"],
    "ctc_strings.py": ["--steps", "3"],
    "draw_digit.py": ["--epochs", "1", "--images", "64"],
    "feed_forward.py": ["--steps", "20"],
    "generate_text.py": ["corpus.txt", "--minutes", "0.02", "--hidden", "16"],
    "melody.py": ["--steps", "4", "--wav", "melody.wav"],
    "nearest_words.py": ["--steps", "4"],
    "online_learning.py": ["--steps", "4", "--rows", "40"],
    "own_cell.py": ["corpus.txt", "--steps", "4", "--hidden", "16"],
    "own_operation.py": ["--steps", "4"],
    "pos_tags.py": ["--epochs", "1", "--data", "tagged.tsv"],
    "question_answering.py": ["--steps", "4"],
    "read_digits.py": ["--epochs", "1", "--images", "128"],
    "sentiment.py": ["--epochs", "1", "--data", "reviews.tsv"],
    "spoken_digits.py": ["--minutes", "0.02", "--numbers", "24"],
    "stacked_bidirectional.py": ["--steps", "4"],
    "translation.py": ["--steps", "3"],
    "vanishing_gradient.py": ["--steps", "12"],
    "word_order.py": ["--steps", "4"],
}
SHARED = {"_digits.py"}  # imported by examples


def test_every_example_is_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == SHORTENED.keys() | SHARED


@pytest.mark.parametrize("name", SHORTENED)
def test_example_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a corpus is a body of text; this one is small.\n" * 60)
    (tmp_path / "reviews.tsv").write_text("a good film\tpos\na bad film\tneg\n" * 20)
    (tmp_path / "tagged.tsv").write_text("a\tDET\nfilm\tNOUN\nends\tVERB\n\n" * 20)
    plot = ["--plot", "plot.png"] if importlib.util.find_spec("matplotlib") else []
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *SHORTENED[name], *plot]
    environment = dict(os.environ) | {"MPLBACKEND": "Agg"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not plot or (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("name", SHORTENED)
def test_example_has_a_title_for_the_gallery(name: str) -> None:
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert lines[0] == '"""'
    assert lines[1]
    assert lines[2] == "=" * len(lines[1])
