"""``sample`` and ``score``: text written with a trained language model, and how likely it finds given text."""

from __future__ import annotations

import codecs
import io
import itertools
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from json import dumps
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from minirnn import random
from minirnn.checkpoint import load_config
from minirnn.data.sources import decode_stream, iter_blocks, normalize_newlines, open_sources
from minirnn.data.text import Bytes, Characters, Symbols
from minirnn.errors import DataError, OptionError
from minirnn.tasks.char import WEIGHTS, SampleConfig, TextGenerator
from minirnn.tasks.scoring import Score, largest, perplexity
from minirnn.tasks.words import WordGenerator
from minirnn_cli import options as o
from minirnn_cli.lines import is_file
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes, say

_BLOCK = 1 << 14  # bytes read at once; the lines in them are scored together
_MAX_LINE = 1 << 20  # characters; a longer line is scored in pieces
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_ALTERNATIVES = 5
_CHOICES = 9
_MAX_WORD = 40  # characters that the model writes at once
_MAX_UNKNOWN = 20  # words in a message
_HOW = """number: take that symbol;  text: write it (a number or q: in quotes "...");  q: end
Enter: let the model write a word"""
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


def _generator(checkpoint: Path | None) -> TextGenerator:
    """The model of a run or a file, or where there is none, of the newest run of a language model."""
    path = find_checkpoint(checkpoint, TextGenerator.name, WordGenerator.name)
    return (WordGenerator if load_config(path).get("task") == WordGenerator.name else TextGenerator).load(path)


def say_unknown(symbols: Symbols, missing: Iterable[str], of: str = "") -> None:
    """Tell what the model does not know, and what is done about it."""
    if isinstance(symbols, Characters):
        say(f"the model does not know {''.join(missing)!r}; left out{of}")
    elif words := list(map(repr, missing)):
        shown = ", ".join(words[:_MAX_UNKNOWN]) + ", ..." * (len(words) > _MAX_UNKNOWN)
        say(f"the model does not know {shown}; read as <unk>")


def _decoded(blocks: Iterable[bytes], name: str, symbols: Symbols | None) -> Iterator[str]:
    """Text as the training data was read: of any bytes, where the model reads bytes."""
    if isinstance(symbols, Bytes):
        return codecs.iterdecode(blocks, "utf-8", "surrogateescape")
    return decode_stream(blocks, name)


def _visible(text: str) -> str:
    """``text`` on one line, its white space as signs."""
    return "".join(_VISIBLE.get(c) or (c if c.isprintable() else repr(c)[1:-1]) for c in text)


# -------------------------------------------------------------------------------------------------------- score


def score(
    checkpoint: o.Checkpoint,
    input: Annotated[
        str | None, typer.Argument(help="A file, or the text itself; standard input where neither is given.")
    ] = None,
    per_symbol: Annotated[
        bool, typer.Option("--per-symbol", help="Print every symbol too, and the most likely ones in its place.")
    ] = False,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Score text with a trained language model: how likely is each line?

    Columns, separated by tabs: nats per symbol (-ln p), bits per symbol, line.
    The last row is the mean over all symbols of all lines.

    A line is scored given all lines before it, the first one as if a line had
    just ended. Its line end is one of its symbols. Characters that the model
    does not know are left out, and words read as <unk>.

    --per-symbol adds rows that begin with a tab: nats, bits, symbol, and the
    five most likely symbols in its place with their probabilities.
    """
    o.use_threads(threads)
    generator = _generator(checkpoint)
    generator.model.to(device)
    text: Iterable[str]
    if input is None or input == "-":
        name, text = "standard input", _decoded(_blocks(None), "standard input", generator.symbols)
    elif is_file(input):
        name, text = input, _decoded(_blocks(input), input, generator.symbols)
    else:
        name, text = "the text given", [input if generator.unit == Bytes.kind else normalize_newlines(input)]
    lines, symbols, nats, unknown = 0, 0, 0.0, dict[str, None]()
    with compile_notes(quiet):
        scorer = generator.scorer(_ALTERNATIVES if per_symbol else 0)
        try:
            for group in _lines(text):
                for line in scorer(group):
                    print(_as_json(line, per_symbol) if json else _as_rows(line, per_symbol))
                    lines, symbols, nats = lines + 1, symbols + line.nats.size, nats + float(line.nats.sum())
                    unknown |= dict.fromkeys(line.unknown)
                sys.stdout.flush()
        finally:  # also after Ctrl-C
            if unknown and symbols and not quiet:
                say_unknown(generator.symbols, unknown)
    if not symbols:
        raise DataError(f"there is no text in {name}" if not lines else f"the model knows no symbol of {name}")
    if json:
        print(dumps({"lines": lines, **_means(symbols, nats / symbols)}))
    else:
        total = f"total of {symbols} {generator.unit}"
        total += f", perplexity {perplexity(nats / symbols):.2f}" * (generator.metric == "perplexity")
        print(f"{_columns(nats / symbols)}\t{total}")


def _blocks(path: str | None) -> Iterator[bytes]:
    """What is in a file, or in standard input as it comes."""
    with nullcontext(sys.stdin.buffer) if path is None else open(path, "rb") as file:
        reader = cast(io.BufferedReader, file)
        yield from iter(lambda: reader.read1(_BLOCK), b"")


def _lines(blocks: Iterable[str]) -> Iterator[list[str]]:
    """The lines that end in each block, with their line ends; at last what has none."""
    begun = ""
    for block in blocks:
        lines = _LINE.findall(begun + block)
        whole = not lines or lines[-1].endswith("\n") or len(lines[-1]) > _MAX_LINE
        begun = "" if whole else lines.pop()
        yield lines
    yield [begun] if begun else []


def _columns(nats: float) -> str:
    return f"{nats:.4f}\t{nats / math.log(2):.4f}"


def _as_rows(line: Score, per_symbol: bool) -> str:
    rows = [f"{_columns(line.nats_per_symbol)}\t" + line.text.removesuffix("\n")]
    if per_symbol:
        for symbol, nats, alternatives in zip(line.symbols, line.nats, line.alternatives, strict=True):
            likely = "  ".join(f"{_visible(other)} {probability:.3f}" for other, probability in alternatives)
            rows.append(f"\t{_columns(nats)}\t{_visible(symbol)}\t{likely}")
    return "\n".join(rows)


def _as_json(line: Score, per_symbol: bool) -> str:
    facts = {"text": line.text.removesuffix("\n"), **_means(line.nats.size, line.nats_per_symbol)}
    facts["unknown"] = line.unknown
    if per_symbol:
        facts["per_symbol"] = [
            {"symbol": symbol, "nats": nats, "alternatives": dict(alternatives)}
            for symbol, nats, alternatives in zip(line.symbols, line.nats.tolist(), line.alternatives, strict=True)
        ]
    return dumps(facts, ensure_ascii=False)


def _means(symbols: int, nats: float) -> dict[str, Any]:
    bits = nats / math.log(2)
    means = {"nats_per_symbol": nats, "bits_per_symbol": bits, "perplexity": perplexity(nats)}
    return {"symbols": symbols} | (means if symbols else {})


# ------------------------------------------------------------------------------------------------------- sample


_option = partial(typer.Option, rich_help_panel=SampleConfig.group)


def sample(
    checkpoint: o.AnyCheckpoint = None,
    num: Annotated[int, _option(min=1, help="Number of texts.")] = 1,
    prompt_file: Annotated[str | None, _option(metavar="FILE", help="File to continue; - is standard input.")] = None,
    interactive: Annotated[bool, _option("--interactive", help="Choose among the most likely next symbols.")] = False,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Generate text with a trained language model; prints it as it is made.

    With --interactive you write it together: a number chooses one of the most
    likely next symbols (--top-k of them, 9 by default), other text is taken as
    it is, Enter lets the model write a word. The text is printed at the end.
    """
    o.use_threads(threads)
    config = SampleConfig.from_dict(options)
    if prompt_file is not None and config.prime:
        raise OptionError("expected one of --prime and --prompt-file, got both")
    if prompt_file == "-" and interactive:
        raise OptionError("--prompt-file - reads standard input, which --interactive needs; give a file")
    generator = _generator(checkpoint)
    generator.model.to(device)
    if interactive:
        generator.model = generator.model.rounded(WEIGHTS[config.weights])
    if prompt_file is not None:
        config = config.replace(prime=read_text(prompt_file, generator.symbols))
    if (missing := generator.symbols.missing(config.prime)) and not quiet:
        say_unknown(generator.symbols, missing, " of the prime")
    if config.seed is None:
        random.seed_from_system()
    with compile_notes(quiet):
        for number in range(num):
            one = config.replace(seed=None if config.seed is None else config.seed + number)
            # an error of the prime comes before anything is written
            pieces = _written_together(generator, one) if interactive else generator.stream(**one.to_dict())
            if json:
                print(dumps({"prime": config.prime, "text": "".join(pieces)}, ensure_ascii=False))
                continue
            for piece in itertools.chain([config.prime], pieces, ["\n"]):
                sys.stdout.write(piece)
                sys.stdout.flush()


o.add_parameters(sample, o.parameters(SampleConfig()))


def read_text(path: str, symbols: Symbols | None = None) -> str:
    """The text of a file, or of standard input for ``-``; of any bytes, where the model's symbols are bytes."""
    text = ""
    for name, opener in open_sources([path]):
        with opener() as file:
            text += "".join(_decoded(iter_blocks(file), name, symbols))
    return text


def _written_together(generator: TextGenerator, config: SampleConfig) -> str:
    """The text that a person and the model write in turn; everything that is shown goes to standard error."""
    symbols, scorer = generator.symbols, generator.scorer(prime=config.prime)
    decode, rng, text, made = symbols.decoder(config.prime), np.random.default_rng(config.seed), "", 0

    def write(tokens: np.ndarray) -> str:
        nonlocal made
        made += tokens.size
        scorer.read(tokens)
        return decode(tokens)

    def log_probs() -> np.ndarray:
        found = scorer.log_probs.copy()
        found[[*symbols.never]] = -np.inf
        return found

    say(_HOW)
    while made < config.length and not (config.stop and config.stop in text):
        likely = largest(log_probs()[None], min(config.top_k or _CHOICES, len(symbols) - len(symbols.never)))[0]
        chances = zip(map(symbols.symbol, likely), np.exp(scorer.log_probs[likely]), strict=True)
        _show_choices(config.prime + text, [f"{n} {_visible(one)} {p:.1%}" for n, (one, p) in enumerate(chances, 1)])
        typed = sys.stdin.buffer.readline().decode("utf-8", "replace")
        entry = typed.rstrip("\r\n")
        if not typed or entry == "q":
            break
        if entry in map(str, range(1, len(likely) + 1)):
            text += write(likely[int(entry) - 1 :][:1])
        elif entry:
            entry = entry[1:-1] if len(entry) > 1 and entry[0] == entry[-1] == '"' else entry
            if missing := symbols.missing(entry):
                say_unknown(symbols, missing)
            text += write(symbols.encode(entry))
        else:
            word, single = "", generator.unit == "words"
            while made < config.length and len(word) < _MAX_WORD and not re.search(r"\S\s\Z", word):
                word += write(np.array([_draw(log_probs(), config, rng)]))
                if single:
                    break
            text += word
    sys.stderr.write("\n")
    return text


def _show_choices(text: str, choices: list[str]) -> None:
    """The end of the text, and below it the choices side by side."""
    width, column = shutil.get_terminal_size().columns, max(map(len, choices)) + 2
    per_row = max(1, width // column)
    padded = [choice.ljust(column) for choice in choices]
    rows = ["".join(padded[start : start + per_row]).rstrip() for start in range(0, len(padded), per_row)]
    say("\n".join(["", _visible(text[-width:]).replace(_VISIBLE[" "], " ")[2 - width :] + "|", *rows]))
    sys.stderr.write("> ")
    sys.stderr.flush()


def _draw(log_probs: np.ndarray, config: SampleConfig, rng: np.random.Generator) -> int:
    """A token, drawn as the model draws it when it writes alone."""
    order = largest(log_probs[None], min(config.top_k or len(log_probs), len(log_probs)))[0]
    if config.temperature == 0:
        return int(order[0])
    weights = np.exp((log_probs[order] - log_probs[order[0]]).astype(np.float64) / config.temperature)
    before = np.cumsum(weights) - weights
    weights[before >= (config.top_p or 1) * weights.sum()] = 0
    return int(rng.choice(order, p=weights / weights.sum()))
