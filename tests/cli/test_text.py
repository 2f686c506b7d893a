"""``score`` and ``sample``: where text comes from, what is printed of it, and writing in turn with a person."""

from __future__ import annotations

import json
import math
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from minirnn_cli import text as command
from support import close, invoke, json_of, refusal

import minirnn as mr
from minirnn.tasks.char import SampleConfig, TextGenerator

Trained = Callable[[str], Path]
TEXT = "to be\n\nor not\n"


@pytest.fixture
def run(trained: Trained) -> str:
    return str(trained("char"))


def loaded(run: str) -> TextGenerator:
    return TextGenerator.load(Path(run, "best.safetensors"))


def loaded_task(run: str) -> TextGenerator:
    return mr.load(run)  # type: ignore[no-any-return]


def lines_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.split("\n") if line]


# -------------------------------------------------------------------------------------------------------- score


def test_score_prints_one_row_for_each_line_and_the_mean(run: str) -> None:
    scores, whole = loaded(run).scorer()(["to be\n", "\n", "or not\n"]), loaded(run).score(TEXT)
    rows = invoke("score", run, TEXT).stdout.splitlines()
    expected = [(one.nats_per_symbol, one.bits_per_symbol, one.text.rstrip("\n")) for one in scores]
    expected.append((whole.nats_per_symbol, whole.bits_per_symbol, "total of 14 characters"))
    assert rows == [f"{nats:.4f}\t{bits:.4f}\t{text}" for nats, bits, text in expected]


def test_weights_in_fewer_bits_are_measured_and_sampled_with(run: str, trained: Trained) -> None:
    Path("in.txt").write_text(40 * TEXT)
    found = json_of("eval", run, "in.txt", "--weights", "bf16", "--weights", "int8")
    assert found == close({**found, **loaded(run).measure(["in.txt"])}, 1e-6)
    for name, stored in (("bf16", "bfloat16"), ("int8", "int8")):
        generator = loaded(run)
        generator.model = generator.model.rounded(stored)  # type: ignore[arg-type]
        assert found[f"loss_{name}"] == pytest.approx(generator.measure(["in.txt"])["loss"], rel=1e-6)
        assert found[f"loss_{name}"] != found["loss"]
    text = invoke("sample", run, "--length", "30", "--seed", "4", "--weights", "bf16", "--quiet").stdout
    assert text == loaded(run).sample(length=30, seed=4, weights="bf16") + "\n"
    assert "--weights is for a language model, got a" in refusal(
        "eval", str(trained("classifier")), "x", "--weights", "bf16"
    )


def test_score_takes_text_a_file_or_standard_input(run: str) -> None:
    """With line ends of any kind, the last of which may be missing."""
    for raw in (TEXT, TEXT.replace("\n", "\r\n"), TEXT.replace("\n", "\r"), "\ufeff" + TEXT):
        Path("in.txt").write_bytes(raw.encode())
        for arguments, typed in (((raw,), None), (("in.txt",), None), ((), raw.encode()), (("-",), raw.encode())):
            *scored, total = lines_of(invoke("score", run, *arguments, "--json", input=typed).stdout)
            assert [one["text"] for one in scored] == ["to be", "", "or not"]
            assert [one["symbols"] for one in scored] == [6, 1, 7]
            assert (total["lines"], total["symbols"]) == (3, 14)
            assert total["nats_per_symbol"] == pytest.approx(loaded(run).score(TEXT).nats_per_symbol, rel=1e-5)
            assert total["bits_per_symbol"] == pytest.approx(total["nats_per_symbol"] / math.log(2))
    assert [one.get("symbols") for one in lines_of(invoke("score", run, "to\nbe", "--json").stdout)] == [3, 2, 5]


def test_score_does_not_depend_on_how_much_is_read_at_once(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.txt").write_bytes((TEXT + "é☃ to be\r\n\r\nor").encode())
    expected = lines_of(invoke("score", run, "in.txt", "--json").stdout)
    assert [one.get("text") for one in expected] == ["to be", "", "or not", "é☃ to be", "", "or", None]
    for size in (1, 2, 7):
        monkeypatch.setattr(command, "_BLOCK", size)
        for one, same in zip(lines_of(invoke("score", run, "in.txt", "--json").stdout), expected, strict=True):
            assert one == close(same, 1e-5)
    monkeypatch.setattr(command, "_BLOCK", 2)
    monkeypatch.setattr(command, "_MAX_LINE", 3)  # a line that is longer comes in pieces
    *scored, total = lines_of(invoke("score", run, "in.txt", "--json").stdout)
    assert total["nats_per_symbol"] == pytest.approx(expected[-1]["nats_per_symbol"], rel=1e-5)
    assert "".join(one["text"] for one in scored) == "to beor noté☃ to beor"
    assert len(scored) > 6


def test_score_per_symbol_lists_the_most_likely_ones(run: str) -> None:
    score = loaded(run).score("to b", alternatives=5)
    row, *symbols, _ = invoke("score", run, "to b", "--per-symbol").stdout.splitlines()
    assert row.endswith("\tto b")
    for line, symbol, nats, likely in zip(symbols, "to␣b", score.nats, score.alternatives, strict=True):
        shown = "  ".join(f"{ {' ': '␣', chr(10): '↵'}.get(one, one) } {p:.3f}" for one, p in likely)
        assert line == f"\t{nats:.4f}\t{nats / math.log(2):.4f}\t{symbol}\t{shown}"
    facts, _ = lines_of(invoke("score", run, "to b", "--per-symbol", "--json").stdout)
    assert [one["symbol"] for one in facts["per_symbol"]] == list("to b")
    assert [one["nats"] for one in facts["per_symbol"]] == pytest.approx(score.nats.tolist())
    assert [[*one["alternatives"].items()] for one in facts["per_symbol"]] == score.alternatives


def test_score_names_unknown_characters_once(run: str) -> None:
    done = invoke("score", run, "t☃o\né\n☃", "--json")
    assert done.stderr == "the model does not know '☃é'; left out\n"
    *scored, total = lines_of(done.stdout)
    assert [(one["unknown"], one["symbols"]) for one in scored] == [("☃", 3), ("é", 1), ("☃", 0)]
    assert scored[2].keys() == {"text", "symbols", "unknown"}  # a mean of nothing is left out
    assert total["symbols"] == 4
    assert invoke("score", run, "t☃o", "--quiet").stderr == ""


def test_score_of_bytes_takes_any_file() -> None:
    noise = bytes(range(256)) * 4 + b"\r\n\n\xff"
    Path("noise.bin").write_bytes(noise)
    options = ("--bytes", "--hidden", "4", "--layers", "1", "--seq-length", "8", "--steps", "1", "--out", "b")
    invoke("train-char", "noise.bin", *options, "--quiet")
    nats, _, _ = loaded("b").scorer().read(np.frombuffer(noise, np.uint8))
    for arguments, typed in ((("noise.bin",), None), ((), noise)):
        *scored, total = lines_of(invoke("score", "b", *arguments, "--json", "--per-symbol", input=typed).stdout)
        assert [one["symbols"] for one in scored] == [11, 256, 256, 256, 247, 1, 1]
        assert total["nats_per_symbol"] == pytest.approx(nats.mean(), rel=1e-5)
        assert scored[-1]["per_symbol"][0]["symbol"] == "\\xff"


def test_score_of_a_pipe_answers_before_the_next_line_is_written(run: str) -> None:
    arguments = [sys.executable, "-m", "minirnn", "score", run, "--json", "--quiet"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in ("to be", "or not"):
                process.stdin.write(f"{line}\n".encode())
                process.stdin.flush()
                assert select.select([process.stdout], [], [], 60)[0], "no answer within a minute"
                assert json.loads(process.stdout.readline())["text"] == line
            process.stdin.close()
            assert json.loads(process.stdout.readline())["lines"] == 2
        finally:
            process.kill()


def test_mistakes_of_score_are_one_line(run: str, trained: Trained) -> None:
    classifier = trained("classifier") / "best.safetensors"
    assert refusal("score", str(classifier), "x") == (
        f"{classifier} holds a 'classifier' model; expected a character model"
    )
    assert refusal("score", run, ".") == ". is a folder; expected a file, or a text"
    assert refusal("score", run, "no.txt") == "there is no file no.txt"
    assert refusal("score", run, "") == "there is no text in the text given"
    assert refusal("score", run, input=b"") == "there is no text in standard input"
    assert refusal("score", run, input=b"to\xff") == "standard input is not UTF-8 text (byte 2, line 1)"
    done = invoke("score", run, "☃", code=2)
    assert (done.stdout, done.stderr) == ("nan\tnan\t☃\n", "minirnn: the model knows no symbol of the text given\n")


def test_predict_gives_the_next_symbols(trained: Trained) -> None:
    for name, symbols in (("char", "be "), ("words", "be or")):
        run = str(trained(name))
        text = symbols.join(["to ", ""])
        expected = loaded_task(run).predict([text, ""], alternatives=2)
        assert json_of("predict", run, text, "--json", "--alternatives", "2") == expected[0]
        shown = [{"\n": "\\n"}.get(one["symbol"], one["symbol"]) for one in expected]
        assert invoke("predict", run, input=f"{text}\n\n").stdout.split("\n") == [*shown, ""]


# ------------------------------------------------------------------------------------------------------- words


def test_words_are_scored_with_unknown_ones(trained: Trained) -> None:
    run = str(trained("words"))
    done = invoke("score", run, "to be, or\nhide? to fly", "--json")
    assert done.stderr == "the model does not know 'hide', '?', 'fly'; read as <unk>\n"
    *lines, total = lines_of(done.stdout)
    assert [(one["text"], one["symbols"], one["unknown"]) for one in lines] == [
        ("to be, or", 5, []),
        ("hide? to fly", 4, ["hide", "?", "fly"]),
    ]
    whole = loaded_task(run).score("to be, or\nhide? to fly")
    assert whole.symbols == ["to", "be", "￭,", "or", "\n", "<unk>", "<unk>", "to", "<unk>"]
    assert total == close(
        {"lines": 2, "symbols": 9, "nats_per_symbol": whole.nats_per_symbol}
        | {"bits_per_symbol": whole.bits_per_symbol, "perplexity": math.exp(whole.nats_per_symbol)},
        1e-5,
    )
    last = invoke("score", run, "to be", "--per-symbol").stdout.splitlines()[-1]
    assert last.endswith(f"\ttotal of 2 words, perplexity {loaded_task(run).score('to be').perplexity:.2f}")


def test_words_continue_a_prompt(trained: Trained) -> None:
    run = str(trained("words"))
    options = ("--length", "30", "--seed", "2", "--temperature", "1")
    done = invoke("sample", run, "--prime", "To be", *options)
    told = [line for line in done.stderr.splitlines() if not line.startswith("compiling")]
    assert told == ["the model does not know 'To'; read as <unk>"]
    text = loaded_task(run).sample("To be", 30, seed=2, temperature=1)
    assert done.stdout == f"To be{text}\n"
    assert text.startswith((" ", "\n", ",", "."))
    assert "<unk>" not in text
    Path("checkpoints").mkdir()
    Path("checkpoints/run").symlink_to(trained("words"))
    assert invoke("sample", "--prime", "to", *options, "--quiet").stdout.startswith("to")


def test_words_are_written_together(trained: Trained) -> None:
    run = str(trained("words"))
    done = invoke("sample", run, "--interactive", "--prime", "to", "--length", "4", input="be, or\n\n")
    words = done.stdout.removeprefix("to be, or")
    assert "to be, or" in done.stdout
    assert len(words.split()) <= 1  # a word of the model, and the length is reached
    assert "<unk>" not in done.stderr


# ------------------------------------------------------------------------------------------------------- sample


def test_a_prompt_file_is_a_prime(run: str) -> None:
    Path("prompt.txt").write_text("to be\nor")
    options = ("--length", "20", "--seed", "1")
    expected = invoke("sample", run, "--prime", "to be\nor", *options).stdout
    assert invoke("sample", run, "--prompt-file", "prompt.txt", *options).stdout == expected
    assert invoke("sample", run, "--prompt-file", "-", *options, input="to be\r\nor").stdout == expected
    assert refusal("sample", run, "--prompt-file", "no.txt") == "cannot read no.txt: No such file or directory"
    message = "expected one of --prime and --prompt-file, got both"
    assert refusal("sample", run, "--prompt-file", "prompt.txt", "--prime", "to") == message
    message = "--prompt-file - reads standard input, which --interactive needs; give a file"
    assert refusal("sample", run, "--prompt-file", "-", "--interactive") == message


def likely(run: str, prime: str, count: int) -> list[str]:
    """The most likely symbols after ``prime``."""
    return [one for one, _ in loaded(run).scorer(count, prime)(["t"])[0].alternatives[0]]


def written(run: str, typed: str, *options: str) -> str:
    return json_of("sample", run, "--interactive", *options, input=typed)["text"]


def test_a_person_chooses_by_number_or_types(run: str) -> None:
    first, second = likely(run, "to", 1)[0], likely(run, "to" + likely(run, "to", 1)[0], 2)[1]
    done = invoke("sample", run, "--interactive", "--prime", "to", input="1\n2\nbe or\nq\nnot\n")
    assert done.stdout == f"to{first}{second}be or\n"
    probability = loaded(run).scorer(1, "to")(["t"])[0].alternatives[0][0][1]
    seen = {" ": "␣", "\n": "↵"}.get(first, first)
    assert f"\nto|\n1 {seen} {probability:.1%}  2 " in done.stderr
    assert done.stderr.count("\n> ") == 4
    assert "  9 " in done.stderr.replace("\n9 ", "  9 ")
    assert "10 " not in done.stderr
    assert written(run, '"q"\n"3"\n99\n3\n', "--top-k", "2") == "q"  # the model knows no digits, and lists no third
    assert json_of("sample", run, "--interactive", "--prime", "to", input="") == {"prime": "to", "text": ""}


def test_what_the_model_does_not_know_is_said_and_not_written(run: str) -> None:
    done = invoke("sample", run, "--interactive", input="t☃o\n☃\n")
    assert done.stdout == "to\n"
    assert done.stderr.count("the model does not know '☃'; left out\n") == 2


def test_the_model_goes_on_for_a_word(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = "".join(loaded(run).sample("to", command._MAX_WORD, temperature=0))
    word = greedy.split()[0]
    end = greedy.index(word) + len(word) + 1  # a word ends with white space, if it ends at all
    expected = greedy[:end]
    assert written(run, "\n", "--prime", "to", "--temperature", "0") == expected
    assert written(run, "\n", "--prime", "to", "--top-k", "1") == expected
    assert written(run, "\n", "--prime", "to", "--top-p", "0.001") == expected
    drawn = {written(run, "\n\n\n", "--temperature", "2", "--seed", seed) for seed in "1123"}
    assert len(drawn) == 3
    assert len(written(run, "\n" * 9, "--length", "5")) == 5
    assert written(run, "to be\nor\nnot\n", "--stop", "or") == "to beor"
    texts = lines_of(invoke("sample", run, "--interactive", "--num", "2", "--json", input="to\nq\nbe\nq\n").stdout)
    assert [one["text"] for one in texts] == ["to", "be"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, [0.5, 0.05, 0.3, 0.15]),
        ({"temperature": 0.5}, [0.25, 0.0025, 0.09, 0.0225]),
        ({"temperature": 1.0, "top_k": 2}, [5, 0, 3, 0]),
        ({"temperature": 1.0, "top_p": 0.8}, [5, 0, 3, 0]),
        ({"temperature": 1.0, "top_p": 0.81}, [50, 0, 30, 15]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.5}, [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_symbols_are_drawn_by_their_probabilities(options: dict[str, Any], expected: list[float]) -> None:
    log_probs, rng = np.log(np.array([0.5, 0.05, 0.3, 0.15], np.float32)), np.random.default_rng(0)
    drawn = [command._draw(log_probs, SampleConfig(**options), rng) for _ in range(3000)]
    shares = np.array(expected) / sum(expected)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 3000, shares, atol=4 * 0.5 / 3000**0.5)
    assert not (np.bincount(drawn, minlength=4)[shares == 0]).any()
