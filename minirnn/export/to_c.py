"""A model as one C99 header with its weights: no allocation, no library but the mathematical functions of C."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.data.vocabulary import SPECIALS, UNK
from minirnn.errors import OptionError
from minirnn.export import _c_models as models
from minirnn.export import _c_runtime as runtime
from minirnn.export._c_layers import Writer
from minirnn.export.network import Network
from minirnn.export.record import Record

FLOAT_BOUND, INT8_BOUND = 1e-5, 0.1
"""Bounds of a program's test of itself, in units of the largest recorded output, or of 1 where that is smaller."""

_VOCABULARIES = {
    "vocabulary": "token",
    "words": "word",
    "characters": "character",
    "source": "source",
    "target": "target",
}


def program(network: Network, record: Record, name: str = "model", int8: bool = False) -> bytes:
    """Write a model as a C99 header, which also compiles as C++.

    Weights of float64 are cast to float. With ``int8`` every matrix and table of embeddings is stored in integers from
    -127 to 127 and one factor per row; biases, states and all arithmetic stay float.

    Args:
        record: of :func:`minirnn.export.record.record`, for the program's test of itself.
        name: with which all names of the program begin; what no C identifier holds becomes ``_``.

    Raises:
        OptionError: a weight, or a constant of the cell, is not finite as a float; a forecaster has quantiles; or every
            step of a :class:`~minirnn.models.OneToMany` reads its first input.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    name = name if name[:1].isalpha() else f"model_{name}"
    writer, task = Writer(int8), network.task or {}
    use = models.WRITERS[network.kind](writer, network, record) + "\n"
    symbols = _strings(writer, task)
    use += _forecast(writer, task["series"]) if "series" in task else ""
    use += "   The next token: model_sample(y, temperature, &seed).\n" if network.kind == "char_lm" else ""
    found = re.findall(r"int (model_find_(\w+))", "\n".join(writer.code))
    use += "".join(f"   Strings: model_{name}(number, NULL); {find}(text, bytes).\n" for find, name in found)
    scale = max(1.0, float(np.abs(record["output"]).max(initial=0)))
    bound = f"{(INT8_BOUND if int8 else FLOAT_BOUND) * scale:.2e}"
    longer = "((unsigned char)prime[length] & 0xC0) == 0x80" if symbols == "characters" else "0"
    parts = [runtime.BEGIN, *writer.defines, *writer.constants, runtime.MATH, runtime.MATH_INT8 if int8 else ""]
    parts += [runtime.ARGMAX, runtime.SAMPLE if network.kind == "char_lm" else "", _struct(writer), *writer.code]
    parts += ["#ifdef MODEL_TEST", *writer.recorded, runtime.DIFFERENCE, writer.test]
    parts += [runtime.TEST_END.replace("BOUND", bound), "#endif"]
    parts += [runtime.MAIN_CHAR.replace("LONGER", longer) if symbols else runtime.MAIN, "#endif"]
    body = "\n".join(part.strip("\n") for part in parts if part)
    return f"{_comment(writer, network, _renamed(use, name), name)}\n{_renamed(body, name)}\n".encode("ascii")


def _renamed(text: str, name: str) -> str:
    """The text with a program's own name for ``model`` in all names."""
    return re.sub(r"\b(model|MODEL)_", lambda found: f"{name.upper() if found[1] == 'MODEL' else name}_", text)


def _comment(writer: Writer, network: Network, use: str, name: str) -> str:
    """What the program is, what it needs, and how it is used."""
    what: list[str] = [network.kind]
    for key, one in network.layers.items():
        cell, size = ascii(one.layers[0][0].equations.name)[1:-1], one.layers[0][0].hidden_size
        what.append(f"{key}: {cell}{', bidirectional' if one.bidirectional else ''}, {len(one.layers)} x {size}")
    room = f" with {name.upper()}_MAX_STEPS {writer.max_steps}" if writer.max_steps else ""
    holder = f"sizeof({_renamed(writer.struct, name)}) = {writer.ram:,} bytes{room}"
    stored = "int8, with a factor per row" if writer.int8 else "float"
    return f"""/* A network ({"; ".join(what)}), exported by minirnn; weights: {stored}.

   Flash: {writer.flash:,} bytes of constants, and the code. RAM: {holder if writer.fields else "the stack"}.
   Stack: local arrays of up to about {4 * (writer.layer_stack + writer.stack):,} bytes.

{use}
   Test: cc -std=c99 -O2 -D{name.upper()}_MAIN -x c {name}.h -lm -o {name} && ./{name}
   Or define {name.upper()}_TEST and call {name}_test(): 0 if all outputs are as recorded. */"""


def _struct(writer: Writer) -> str:
    """The struct that the caller owns."""
    limit = f"\n#ifndef MODEL_MAX_STEPS\n#define MODEL_MAX_STEPS {writer.max_steps}\n#endif" if writer.max_steps else ""
    lines = [f"    {kind} {name}{f'[{count}]' if count else ''};" for name, (kind, count) in writer.fields.items()]
    return "\n".join([limit, "typedef struct {", *lines, f"}} {writer.struct};"]) if lines else ""


# ----------------------------------------------------------------------------------------------------- tasks


def _strings(writer: Writer, task: dict[str, Any]) -> str | None:
    """Write the strings that stand for tokens and classes; the kind of symbols of a character model, else None."""
    for key, name in _VOCABULARIES.items():
        if key in task:
            words = [*SPECIALS, *task[key]["tokens"]]
            _string_table(writer, name, [_utf8(word) for word in words], len(SPECIALS), UNK)
    if "labels" in task:
        _string_table(writer, "label", [_utf8(label) for label in task["labels"]["names"]])
    if "symbols" not in task:
        return None
    kind: str = task["symbols"]["kind"]
    if kind == "words":
        _string_table(writer, "word", [_utf8(word) for word in [SPECIALS[UNK], *task["symbols"]["tokens"]]], 1, 0)
        return None
    symbols = [bytes([n]) for n in range(256)] if kind == "bytes" else map(_utf8, task["symbols"]["characters"])
    _string_table(writer, "symbol", list(symbols))
    return kind


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _string_table(writer: Writer, name: str, strings: Sequence[bytes], first: int = 0, missing: int = -1) -> None:
    """Write ``model_NAME(k)`` and ``model_find_NAME(text)``, which begins at string ``first``."""
    ends = np.cumsum([0, *(len(string) + 1 for string in strings)]).astype(np.uint32)
    writer.array(f"{name}_bytes", np.frombuffer(b"".join(string + b"\0" for string in strings), np.uint8), "uint8_t")
    writer.array(f"{name}_at", ends, "uint32_t")
    text = runtime.STRINGS.replace("NAME", name).replace("COUNT", str(len(strings)))
    writer.code.append(text.replace("FIRST", str(first)).replace("MISSING", str(missing)))


def _forecast(writer: Writer, series: dict[str, Any]) -> str:
    """Write ``model_forecast`` with the preprocessing of a forecaster; returns how it is used.

    See :class:`minirnn.data.windows.Preprocessor` for the formulas.
    """
    length, horizon, season, log = (series[key] for key in ("seq_length", "horizon", "season", "log"))
    if {"quantiles", "future", "id"} & series.keys():
        raise OptionError(
            "export: c has no forecasters with quantiles, future or id; expected onnx, or numpy for quantiles"
        )
    base, columns = series["base"], 1 + len(series["inputs"])
    period = 1 if base == "last" else season
    first = max(length, period + (base == "trend"))
    for key, values in (*series["scaler"].items(), ("spread", series["spread"])):
        writer.array(key, np.array(values, np.float64), "double")
    streaming, inputs = writer.struct == "model_state", 1 + columns
    declared, kept = ("", inputs) if streaming else ("model_workspace *w, ", length * inputs)

    def x(row: str) -> str:
        return f"{'log' if log else ''}(history[({row}) * {columns}])"

    writer.write(
        f"""
static inline int model_forecast({declared}const double *history, int rows, double *y) {{
    {"model_state state;" if streaming else ""}
    float out[{horizon}], all[{kept}], *x = all;
    double last;
    int t, c, k;
    if (rows < {first}) return -1;
    {f"for (t = 0; t < rows; t++) if (!(history[t * {columns}] > 0)) return -1;" if log else ""}
    last = ({x("rows - 1")} - model_mean[0]) / model_std[0];
    {"model_init(&state);" if streaming else ""}
    for (t = rows - {length}; t < rows; t++, x += {0 if streaming else inputs}) {{
        for (c = 0; c < {columns}; c++)
            x[1 + c] = (float)tanh(((c ? history[t * {columns} + c] : {x("t")}) - model_mean[c]) / model_std[c] / 2);
        x[0] = (float)(({x("t")} - model_mean[0]) / model_std[0] - last);
        {"model_step(&state, x, t == rows - 1 ? out : NULL);" if streaming else ""}
    }}
    {"" if streaming else f"if (model_run(w, all, {length}, out) < 0) return -1;"}
    for (k = 1; k <= {horizon}; k++) {{
        const int cycles = (k + {period - 1}) / {period};
        double value = {x(f"rows - 1 + k - cycles * {period}")} + model_spread[k - 1] * (double)out[k - 1];
        {f"value += cycles * ({x('rows - 1')} - {x(f'rows - 1 - {period}')});" if base == "trend" else ""}
        y[k - 1] = {"exp(value < 700 ? value : 700)" if log else "value"};
    }}
    return 0;
}}""",
        kept + horizon + streaming * writer.ram // 4,
    )
    call = "history, rows, y" if streaming else "&w, history, rows, y"
    positive = ", or a value of the column is not above 0" if log else ""
    return f"""   double y[{horizon}]; model_forecast({call}): the next {horizon} values of the column, in its units,
   from `rows` rows of {columns} numbers in the order of time, the column to forecast first; returns -1 where there
   are fewer than {first} rows{positive}.
"""
