"""Every example runs, in a shortened mode, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SHORTENED = {
    "generate_text.py": ["corpus.txt", "--minutes", "0.02", "--hidden", "16"],
}


def test_every_example_is_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHORTENED)


@pytest.mark.parametrize("name", SHORTENED)
def test_example_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a corpus is a body of text; this one is small.\n" * 60)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *SHORTENED[name]],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
