"""A trained model in one file of HTML that runs it in a browser: ``minirnn look``."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from minirnn.data.text import Bytes
from minirnn.data.vocabulary import END
from minirnn.errors import OptionError
from minirnn.export.network import Layers, Network, describe
from minirnn.export.page.cells import javascript
from minirnn.export.page.ranking import rank
from minirnn.export.page.trace import Trace, trace
from minirnn.export.page.weights import DIGITS, pack, rounded, stored_arrays
from minirnn.export.record import STEPS, record
from minirnn.models import EncoderDecoder
from minirnn.tasks import Task
from minirnn.tasks.base import rebuild
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.tagger import MAX_SENTENCE_LENGTH, MAX_WORD_LENGTH

__all__ = ["contents", "look", "rank", "render"]

RANKED_SYMBOLS = 2000
"""At the beginning of a text, by which units are ranked; where no text is given, the model writes as many."""
COMPARED_SYMBOLS = 500
"""At the beginning of a text, at which the values of rounded weights are compared with those of the model."""
PAGE_SCRIPTS = ("common.js", "units.js", "text.js", "words.js", "page.js")
"""What becomes one block of code, after the engine."""


def look(task: Task[Any, Any], text: str | None = None, title: str | None = None, int8: bool = False) -> bytes:
    """Return a page of HTML that holds a trained model and runs it: nothing is loaded, nothing is sent.

    In the page one types or pastes text and sees the activation of any unit, state or gate, at every symbol, what the
    model expects next, and how it writes on; the probabilities of a classifier or tagger at every word; the attention
    of a translator. Units of a character model are ranked by :func:`rank`.

    Weights are float16 in the page, and it computes in float32. What this changes is measured when the page is made, on
    its text or on random tokens, and stands in it.

    Args:
        task: a trained character model, classifier, tagger or translator, of any cell.
        text: shown at first, and what units are ranked by (its first 2,000 symbols); where None, a character model
            writes as many.
        title: of the page; by default what the task is.
        int8: weights of one byte, with a scale for each row: a page of half the size that computes less exactly.

    Raises:
        OptionError: it is another task, or a model that cannot be described, as one with a module as cell.

    >>> import minirnn as mr
    >>> task = mr.tasks.load("checkpoints/corpus/best.safetensors")  # doctest: +SKIP
    >>> Path("corpus.html").write_bytes(look(task, "To be, or not"))  # doctest: +SKIP
    """
    return render(contents(task, text, int8), title or f"{task.description} of minirnn")


def contents(task: Task[Any, Any], text: str | None = None, int8: bool = False) -> dict[str, Any]:
    """Return what :func:`look` writes into the page, JSON-able; arguments and errors are the same.

    Returns:
        ``kind``; ``network``, ``arrays`` and ``weights``; vocabularies; ``cells``, the source of each; ``text``;
        ``about``: ``cell``, ``parameters``, ``weights``, and how values differ from those of the model; of character
        models ``ranking``, see :func:`rank`.
    """
    describer = _KINDS.get(getattr(task, "name", ""))
    if describer is None:
        what = getattr(task, "description", type(task).__name__)
        raise OptionError(f"look: expected a model of one of {', '.join(_KINDS)}, got {what}")
    network = describe(task.model)
    if network.kind == "char_lm" and network.layers["rnn"].bidirectional:
        raise OptionError("look: expected a character model of one direction")
    if any(layer.weight_hr is not None for layers in network.layers.values() for row in layers.layers for layer in row):
        raise OptionError("look: expected layers without a projection (proj_size)")
    text = text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    stored, about = stored_arrays(network), _about(network, int8)
    if not all(np.isfinite(array).all() for array in stored.values()):
        raise OptionError("look: expected finite weights; the model has some that are NaN or infinite in float32")
    found = {"kind": task.name, **_described(network), **pack(stored, int8), **describer(task), "about": about}
    if not isinstance(task, TextGenerator):
        return found | {"text": text or "", "about": about | _output_difference(task.model, int8)}
    shown = _follow(task, network, {name: rounded(array, int8) for name, array in stored.items()}, text)
    exact = trace(network, stored, shown.tokens[: COMPARED_SYMBOLS + 1])
    text = task.symbols.decoder()(shown.tokens[1:]) if text is None else text
    about["differences"] = _differences(shown, exact)
    return found | {"text": text, "ranking": _ranking(task, network, shown)}


# ------------------------------------------------------------------------------------------------ what each task needs


def _char(task: Any) -> dict[str, Any]:
    symbols = [task.symbols.symbol(token) for token in range(len(task.symbols))]
    return {"symbols": symbols, "bytes": isinstance(task.symbols, Bytes)}


def _tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """What the page needs to split texts as :class:`~minirnn.data.tokenize.Tokenizer` does.

    Browsers have tables of characters of another version of Unicode than Python, so those of Python are in the page.
    """
    classes = _classes()
    return config | (classes if config["rule"] == "word" else {"space": classes["space"]})


@cache
def _classes() -> dict[str, str]:
    return {
        "space": _ranges(str.isspace),
        "word": _ranges(lambda c: c.isalnum() or c == "_"),
        "marks": _ranges(lambda c: unicodedata.category(c)[0] == "M" or c in "\u200c\u200d"),
    }


def _ranges(holds: Callable[[str], bool]) -> str:
    """All characters for which ``holds``, as the inside of a class of a regular expression in JavaScript."""
    points = np.array([point for point in range(sys.maxunicode + 1) if holds(chr(point))])
    cuts = np.flatnonzero(np.diff(points) > 1)
    pairs = zip(points[np.r_[0, cuts + 1]].tolist(), points[np.r_[cuts, -1]].tolist(), strict=True)
    return "".join(rf"\u{{{a:x}}}" + (rf"-\u{{{b:x}}}" if b > a else "") for a, b in pairs)


def _classifier(task: Any) -> dict[str, Any]:
    config = task.vocabulary_config()
    return {
        "labels": task.labels.names,
        "vocabulary": config["vocabulary"]["tokens"],
        "max_length": task.max_length,
        "tokenizer": _tokenizer(config["tokenizer"]),
    }


def _tagger(task: Any) -> dict[str, Any]:
    config = task.vocabulary_config()
    return {
        "labels": task.labels.names,
        "vocabulary": config["words"]["tokens"],
        "characters": config["characters"]["tokens"],
        "max_word": MAX_WORD_LENGTH,
        "max_words": MAX_SENTENCE_LENGTH,
        "tokenizer": _tokenizer({"rule": "space", "lower": False}),
    }


def _translator(task: Any) -> dict[str, Any]:
    config = task.vocabulary_config()
    sides = {side: config[side]["tokens"] for side in ("source", "target")}
    return sides | {"tokenizer": _tokenizer(config["tokenizer"])}


_KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "char": _char,
    "classifier": _classifier,
    "tagger": _tagger,
    "translator": _translator,
}


# --------------------------------------------------------------------------------------------------------- the network


def _described(network: Network) -> dict[str, Any]:
    """A network for the page, and the sources of its cells."""
    cells: list[str] = []

    def described(layers: Layers) -> dict[str, Any]:
        rows = list[list[dict[str, Any]]]()
        for row in layers.layers:
            rows.append([])
            for layer in row:
                source = javascript(layer.equations)
                if source not in cells:
                    cells.append(source)
                facts = {"size": layer.hidden_size, "zoneout": layer.zoneout, "reverse": layer.reverse}
                rows[-1].append({"cell": cells.index(source), **facts})
        return {"rows": rows, "merge": layers.merge, "residual": layers.residual}

    layers = {name: described(one) for name, one in network.layers.items()}
    more = {"linear": list(network.linear), "attention": network.attention, "pooling": network.options.get("pooling")}
    return {"network": {"layers": layers, **more}, "cells": cells}


def _about(network: Network, int8: bool) -> dict[str, Any]:
    """Facts for people: the version, the recurrent layers in words (``lstm, 2 x 256``), size, type of the weights."""
    layers = (network.layers.get("rnn") or network.layers["decoder"]).layers
    sizes = " and ".join(dict.fromkeys(str(row[0].hidden_size) for row in layers))
    try:
        release = version("minirnn")
    except PackageNotFoundError:  # run from its source
        release = ""
    cell = f"{layers[0][0].equations.name}, {len(layers)} x {sizes}"
    weights = "int8" if int8 else "float16"
    return {"minirnn": release, "cell": cell, "parameters": network.num_parameters, "weights": weights}


def _output_difference(model: Any, int8: bool) -> dict[str, float]:
    """The largest difference that rounded weights make to outputs: logits at random tokens."""
    arrays = {name: rounded(array, int8) for name, array in model.state_dict().items()}
    one, other = map(_outputs, (model, rebuild(type(model), model.config, arrays)))
    return {"output_difference": float(np.abs(one - other).max())}


def _outputs(model: Any) -> np.ndarray:
    if not isinstance(model, EncoderDecoder):
        return record(model)["output"]
    rng = np.random.default_rng(0)
    source, target = (rng.integers(END, size, (STEPS, 1)) for size in (model.source_size, model.target_size))
    with model.evaluating():
        return model(source, target).numpy()


# ---------------------------------------------------------------------------------------------------- character models


def _follow(task: TextGenerator, network: Network, arrays: dict[str, np.ndarray], text: str | None) -> Trace:
    """What the page's model computes at the beginning of a text, or at one that it writes; the start comes first."""
    given = task.symbols.encode(text or "")[:RANKED_SYMBOLS]
    tokens = np.concatenate([task.start().astype(np.int64), given])
    return trace(network, arrays, tokens, draw=RANKED_SYMBOLS if text is None else 0)


def _ranking(task: TextGenerator, network: Network, shown: Trace) -> list[dict[str, Any]]:
    tokens = shown.tokens[1:]
    text = (
        tokens.astype(np.uint8).tobytes().decode("latin-1")
        if task.unit == Bytes.kind
        else task.symbols.decoder()(tokens)
    )
    values = [{name: one[1:] for name, one in named.items()} for named in shown.values]
    return rank(values, text, [row[0].equations.states for row in network.layers["rnn"].layers])


def _differences(one: Trace, other: Trace) -> dict[str, float]:
    """The largest differences between two traces, of which the second may be shorter."""
    steps = len(other.tokens)
    values = max(
        float(np.abs(a[name][:steps] - b[name]).max())
        for a, b in zip(one.values, other.values, strict=True)
        for name in a
    )
    return {
        "symbols": steps,
        "values": values,
        "log_probs": float(np.abs(one.log_probs[:steps] - other.log_probs).max()),
    }


# ------------------------------------------------------------------------------------------------------------ the page


@cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def render(contents: dict[str, Any], title: str) -> bytes:
    """Return the page of :func:`contents`, in which only its own scripts and styles, known by their hashes, may run."""
    data = {key: value for key, value in contents.items() if key != "cells"}
    constants = f"const DIGITS = {json.dumps(DIGITS)};\nconst CELLS = [{', '.join(contents['cells'])}];\n"
    engine = constants + "".join(map(_file, ("engine.js", "models.js")))
    values = {
        "title": html.escape(title),
        "style": _file("page.css"),
        "engine": f'const makeModel = (() => {{\n"use strict";\n{engine}return makeModel;\n}})();',
        "page": '"use strict";\n{\n' + "".join(map(_file, PAGE_SCRIPTS)) + "}\n",
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: values.get(found[1], found[0]), _file("page.html"))
    policy = ["default-src 'none'", "base-uri 'none'", "form-action 'none'"]
    for kind in ("script", "style"):
        own = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        policy.append(" ".join([f"{kind}-src", *(f"'sha256-{_sha256(one)}'" for one in own)]))
    return text.replace("{{csp}}", "; ".join(policy), 1).encode("utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
