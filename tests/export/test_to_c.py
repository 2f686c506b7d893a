"""Exported C: compiled without a warning, run, and compared with the model; every cell, every kind, every task."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perturb, run

import minirnn as mr
from minirnn import cells, nn
from minirnn.cells import exp, mean, product, sigmoid, tanh, where
from minirnn.data.forecasting import select_series
from minirnn.data.tables import parse_table
from minirnn.data.text import Bytes, Characters, Words
from minirnn.errors import OptionError
from minirnn.export._c_models import MAX_STEPS
from minirnn.export.network import describe
from minirnn.export.record import record
from minirnn.export.to_c import FLOAT_BOUND, INT8_BOUND, program
from minirnn.models import CharLM, EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne
from minirnn.nn.module import Module
from minirnn.tasks import TASKS
from minirnn.tasks.char import CharConfig, TextGenerator
from minirnn.tasks.forecaster import Forecaster, ForecasterConfig
from minirnn.tasks.tagger import TaggerModel
from minirnn.tasks.words import WordGenerator
from minirnn.training import Trainer, TrainingConfig

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, cc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wdouble-promotion", "-Wshadow")
RUNS = Path(__file__).parents[1] / "data_0_1"


@mr.cell
def busy(a: Any, f: Any, n_x: Any, n_h: Any, /, h: Any, c: Any, *, v: Any = 0.5) -> Any:
    """All that the equations of a cell may hold: products in a row, sums of sums, a state that is used again."""
    u = product(tanh(product(f + v * c)) + mean(a))
    c = where(cells.abs(u) > mean(cells.abs(u)), c + 0.1 * exp(-u * u), -c * 0.5) - mean(c * u)
    return sigmoid(u) * tanh(n_x + n_h) - (h - (c - u)) * 0.25, c


def make_models() -> Iterator[tuple[str, Module]]:
    """Models of every kind, with every cell in one and in two layers."""
    merges, poolings, attentions = ("sum", "mul", "ave", "concat"), ("last", "mean", "max", "attention"), (None, "dot")
    cell: Any
    for n, cell in enumerate([*cells.names(), busy]):
        name, embedding = getattr(cell, "name", cell), (None, 3, 0)[n % 3]
        for layers in (1, 2):
            k, both = f"{name}_{layers}", (n + layers) % 2 == 0
            options: Any = {"bidirectional": both, "merge": merges[n % 4]}
            pooled: Any = {"embedding_size": embedding, "pooling": poolings[(n + layers) % 4]}
            attended: Any = {"embedding_size": embedding, "attention": (*attentions, "additive")[n % 3]}
            yield f"{k}_many", ManyToMany(3, 5, 4, layers, cell, **options, zoneout=0.1 if n == 5 else 0)
            yield f"{k}_one", ManyToOne(7, 5, 4, layers, cell, **options, **pooled)
            if both:
                yield f"{k}_char", CharLM(11, 5, layers, cell, embedding_size=2)
                yield f"{k}_start", OneToMany(3, 5, 4, layers, cell, 0.0, embedding, ("none", "sigmoid")[n % 4 // 2])
            else:
                yield f"{k}_pair", EncoderDecoder(9, 8, 6, layers, cell, bidirectional=layers == 2, **attended)
    yield "pair_both", EncoderDecoder(9, 8, 6, 2, "slstm", merge="ave", attention="dot")
    for pooling in poolings:
        for both in (False, True):
            yield f"{pooling}_{both:d}", ManyToOne(7, 5, 4, 1, "gru", both, pooling=pooling, embedding_size=3)
        stack = nn.Recurrent("gru", 3, 5, 3, residual=True)
        yield f"residual_{pooling}", ManyToOne(3, 5, 4, cell=stack, pooling=pooling)
    yield "residual_both", ManyToMany(3, 8, 2, cell=nn.Recurrent("mgu", 3, 4, 3, residual=True, bidirectional=True))
    yield "sizes", ManyToOne(3, 4, 2, cell=nn.Recurrent("lstm", 3, [7, 4], 2, bias=False))
    yield "projected", ManyToMany(3, 2, 2, cell=nn.LSTM(3, 5, 2, proj_size=2))
    yield "tag", TaggerModel(9, 6, 4, 5, 2, "gru", embedding_size=3)
    yield "tag_one_way", TaggerModel(9, 6, 4, 5, 1, "slstm", bidirectional=False, embedding_size=3)
    yield "double_pair", EncoderDecoder(9, 8, 6, 2, dtype="float64")
    for n, activation in enumerate(("relu", "tanh", "sigmoid")):
        yield f"ff{n}", OneToOne(3, 7, 2, n, activation)


def prepared(model: Any) -> Any:
    """The model with random weights, vectors and biases too."""
    for number, parameter in enumerate(model.parameters()):
        parameter.data[...] += np.random.default_rng(number).normal(0, 0.1, parameter.shape)
    return model


def exported(model: Any, task: dict[str, Any] | None = None, **options: Any) -> bytes:
    return program(replace(describe(model), task=task), record(model), **options)


def compiled(folder: Path, source: str | None, flags: Iterable[str] = STRICT, compiler: str = "cc") -> Path:
    """The program of ``source``, or of ``model.h`` alone, in a folder with the headers it includes."""
    if source is not None:
        (folder / "main.c").write_text(source)
    given = ["main.c"] if source is not None else ["-DMODEL_MAIN", "model.h"]
    command = [compiler, *flags, "-x", "c++" if compiler == "c++" else "c", *given, "-o", "program", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    return folder / "program"


def output(path: Path, *arguments: str, code: int = 0, **options: Any) -> Any:
    done = subprocess.run([path, *arguments], capture_output=True, **options)
    assert done.returncode == code, done
    return done.stdout


def numbers(path: Path, *arguments: str) -> np.ndarray:
    return np.array(output(path, *arguments).split(), np.float64)


def test_every_cell_and_every_kind_gives_the_recorded_outputs_in_the_memory_that_is_stated(tmp_path: Path) -> None:
    mr.manual_seed(0)
    lines, sizes, bounds = [], {}, {}
    includes = []
    for name, model in make_models():
        recorded = record(prepared(model))
        text = program(describe(model), recorded, name).decode()
        (tmp_path / f"{name}.h").write_text(text)
        includes.append(f'#define {name.upper()}_TEST\n#include "{name}.h"')
        bounds[name] = FLOAT_BOUND * max(1.0, np.abs(recorded["output"]).max())
        stated = text.split("sizeof(")[1].split(" bytes")[0] if "sizeof(" in text.split("*/")[0] else ""
        struct, _, size = stated.partition(") = ")
        sizes[name] = int(size.replace(",", "") or 0)
        lines.append(f'printf("{name} %d ", (int){f"sizeof({struct})" if struct else 0}); bad += {name}_test();')
    source = "\n".join([*includes, "int main(void) { int bad = 0;", *lines, "return bad; }"])
    for compiler, flags in (("cc", STRICT), ("c++", ("-Wall", "-Wextra", "-Werror"))):
        if shutil.which(compiler):
            rows = [line.split() for line in output(compiled(tmp_path, source, flags, compiler)).decode().splitlines()]
            found = {row[0]: float(row[-3].rstrip(",")) for row in rows}
            assert {row[0]: int(row[1]) for row in rows} == sizes
            assert {name: found[name] for name in bounds if not found[name] <= bounds[name]} == {}
            assert sum(value > 0 for value in found.values()) > 100  # what is compared was computed, not copied


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", sorted(path.parent.name for path in RUNS.glob("*/run")))
def test_checkpoints_of_every_task(name: str, int8: bool, tmp_path: Path) -> None:
    task = TASKS[name].load(RUNS / name / "run/last.safetensors")
    (tmp_path / "model.h").write_bytes(exported(task.model, task.config(), int8=int8))
    program = compiled(tmp_path, None)
    assert b"largest difference" in output(program)
    scale = max(1.0, float(np.abs(record(task.model)["output"]).max()))
    assert float(output(program).split()[-1]) == pytest.approx((INT8_BOUND if int8 else FLOAT_BOUND) * scale, rel=0.01)


def test_a_wrong_output_fails_the_test_of_the_program(tmp_path: Path) -> None:
    model = CharLM(5, 4)
    wrong = record(model)
    wrong["output"][7, 2] += 2e-4
    (tmp_path / "model.h").write_bytes(program(describe(model), wrong))
    output(compiled(tmp_path, None), code=1)


def test_int8_computes_the_model_with_rounded_weights(tmp_path: Path) -> None:
    """Biases and vectors stay as they are; a row of zeros is no division by zero."""
    model = prepared(ManyToMany(3, 5, 4, 2, busy))
    model.head.weight.data[1] = 0
    (tmp_path / "model.h").write_bytes(exported(model, int8=True))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            scale = np.abs(parameter.data).max(1, keepdims=True) / 127
            scale[scale == 0] = 1
            parameter.data[...] = np.rint(parameter.data / scale) * scale
    expected = record(model)
    loop = "for (t = 0; t < 12; t++) { model_step(&s, model_test_input + 3 * t, y); PRINT }"
    shown = loop.replace("PRINT", 'for (k = 0; k < 4; k++) printf("%.9g ", (double)y[k]);')
    body = f"int main(void) {{ model_state s; float y[4]; int t, k; model_init(&s); {shown} return 0; }}"
    found = numbers(compiled(tmp_path, f'#define MODEL_TEST\n#include "model.h"\n{body}'))
    assert np.abs(found.reshape(12, 4) - expected["output"]).max() < 1e-5


def test_flash_is_that_of_the_constants_and_some_code(tmp_path: Path) -> None:
    if shutil.which("size") is None:
        pytest.skip("there is no program size")
    model = CharLM(65, 32, 2)
    use = "void use(model_state *s, float *y) { model_init(s); model_step(s, 1, y); }"
    for int8 in (False, True):
        text = exported(model, int8=int8).decode()
        (tmp_path / "model.h").write_text(text)
        (tmp_path / "use.c").write_text(f'#include "model.h"\n{use}')
        subprocess.run(["cc", "-Os", "-c", "use.c"], cwd=tmp_path, check=True)
        found = subprocess.run(["size", "use.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        in_file = sum(map(int, found.splitlines()[1].split()[:2]))
        stated = int(text.split("Flash: ")[1].split(" bytes")[0].replace(",", ""))
        assert stated <= in_file < stated + 4096
        weights = sum(parameter.data.size for parameter in model.parameters())
        assert stated < weights * (1.3 if int8 else 4)


# ------------------------------------------------------------------------------------------------------ tasks

MOST_LIKELY = """
#include <stdio.h>
#include "model.h"
int main(void) {
    static model_state state;
    float y[MODEL_OUTPUTS];
    int token;
    model_init(&state);
    while ((token = getchar()) != EOF) {
        model_step(&state, token, y);
        putchar(model_argmax(y, MODEL_OUTPUTS));
    }
    return 0;
}
"""


def test_greedy_text_of_a_char_model_is_that_of_minirnn(tmp_path: Path) -> None:
    text = Path(argparse.__file__).read_text(encoding="utf-8")
    config = CharConfig(hidden_size=64, num_layers=1, dropout=0.0, seq_length=32, batch_size=32, seed=1)
    task = TextGenerator.build(TextGenerator.read([argparse.__file__], config), config)
    run(Trainer(task, TrainingConfig(steps=150, lr=1e-2, evaluations=1)))
    (tmp_path / "model.h").write_bytes(exported(task.model, task.config()))
    program, decode = compiled(tmp_path, None, (*STRICT, "-O2")), task.symbols.decoder()
    for prime in ("def ", "class Parser", "\n"):
        expected = decode(task.model.generate(task.symbols.encode(prime), 1000, temperature=0))
        assert output(program, "1000", prime).decode() == expected
    tokens = task.symbols.encode(text)[:20_000]  # a greedy text repeats itself; here every state is another one
    with task.model.evaluating():
        expected = task.model(tokens)[0].numpy().argmax(1)
    found = output(compiled(tmp_path, MOST_LIKELY), input=bytes(tokens.tolist()))
    assert np.frombuffer(found, np.uint8).tolist() == expected.tolist()


@pytest.mark.parametrize("symbols", ["\0\n\"%'*/?\\a{}\x7f\x80é—\U0001f600", "bytes"])
def test_any_symbol_is_valid_c_and_found_again(symbols: str, tmp_path: Path) -> None:
    kind: Any = Bytes() if symbols == "bytes" else Characters(symbols)
    strings = [bytes([n]) for n in range(256)] if symbols == "bytes" else [c.encode() for c in symbols]
    model = prepared(CharLM(len(kind), 3, 1))
    (tmp_path / "model.h").write_bytes(exported(model, TextGenerator(model, kind).vocabulary_config()))
    body = """int main(void) { int k, n, bad = 0; for (k = 0; k < MODEL_OUTPUTS; k++) {
        const char *s = model_symbol(k, &n); bad += model_find_symbol(s, n) != k; fwrite(s, 1, (size_t)n, stdout); }
        return bad + (model_find_symbol("no", 2) != -1); }"""
    assert output(compiled(tmp_path, f'#include <stdio.h>\n#include "model.h"\n{body}')) == b"".join(strings)
    if symbols != "bytes":  # what is not known of a prime is left out
        program = compiled(tmp_path, None)
        texts = [output(program, "30", prime, "0.05") for prime in ("é~?", "é?", "a")]
        assert texts[0] == texts[1] != texts[2]


def test_words_are_found_and_their_weights_are_tied(tmp_path: Path) -> None:
    symbols = Words.of(["to be, or"])
    model = prepared(CharLM(len(symbols), 3, 1, tie_weights=True))
    task = WordGenerator(model, symbols)
    (tmp_path / "model.h").write_bytes(exported(model, task.vocabulary_config()))
    body = """int main(void) { int k, n; for (k = 0; k < MODEL_OUTPUTS; k++) puts(model_word(k, &n));
        printf("%d %d ", model_find_word("or", 2), model_find_word("fly", 3)); return model_test(); }"""
    source = f'#include <stdio.h>\n#define MODEL_TEST\n#include "model.h"\n{body}'
    lines = output(compiled(tmp_path, source)).decode().splitlines()
    assert lines[:5] == ["<unk>", "to", "be", "￭,", "or"]
    assert lines[5].startswith("4 0 ")


def test_samples_follow_the_temperature_and_the_seed(tmp_path: Path) -> None:
    (tmp_path / "model.h").write_bytes(exported(CharLM(4, 3, 1)))
    logits = [0.5, -1.0, 2.0, 1.0]
    body = f"""int main(int argc, char **argv) {{ float y[4] = {{{", ".join(f"{v}f" for v in logits)}}}; int k;
        uint32_t seed = (uint32_t)atoi(argv[1]); (void)argc; for (k = 0; k < 20000; k++)
        printf("%d ", model_sample(y, (float)atof(argv[2]), &seed));
        return 0; }}"""
    program = compiled(tmp_path, f'#include <stdio.h>\n#include <stdlib.h>\n#include "model.h"\n{body}')
    for temperature in (0.5, 2.0):
        drawn = numbers(program, "7", str(temperature)).astype(int)
        weights = np.exp(np.array(logits) / temperature)
        assert np.bincount(drawn, minlength=4) / 20000 == pytest.approx(weights / weights.sum(), abs=0.015)
    assert output(program, "7", "1") == output(program, "7", "1") != output(program, "8", "1")
    assert set(numbers(program, "7", "0")) == {2}


@pytest.mark.parametrize("base", ["last", "season", "trend"])
@pytest.mark.parametrize("options", [{"log": True}, {"bidirectional": True, "log": False, "pooling": ""}])
def test_forecasts_in_the_units_of_the_column(base: Any, options: dict[str, Any], tmp_path: Path) -> None:
    t = np.arange(60)
    rows = np.stack([(20 + t) * (1 + 0.3 * np.sin(t)), 1e6 + t % 7], 1)
    table = parse_table("s.csv", "b,a\n" + "\n".join(f"{b!r},{a!r}" for a, b in rows.tolist()))
    options = {name: value for name, value in options.items() if name != "pooling"}
    config = ForecasterConfig(seq_length=9, horizon=8, season=6, base=base, inputs=("b",), hidden_size=5, **options)
    task = perturb(Forecaster.build(select_series(table, "a", ("b",)), config))
    (longer,) = select_series(table, "a", ("b",))
    longer = replace(longer, values=np.concatenate([rows, rows[-1:].repeat(8, 0)]))
    expected = task.preprocessor.values(task.forecasts(task.preprocessor.examples([longer.split(60)])))[0]
    (tmp_path / "model.h").write_bytes(exported(task.model, task.config()))
    first, workspace = ("&w, ", "static model_workspace w;") if config.bidirectional else ("", "")
    values = ", ".join(map(repr, rows.ravel().tolist()))
    body = f"""int main(void) {{ {workspace} const double history[120] = {{{values}}}; double y[8]; int k;
        if (model_forecast({first}history, {task.preprocessor.first_row - 1}, y) != -1) return 2;
        if (model_forecast({first}history, 60, y)) return 3;
        for (k = 0; k < 8; k++) printf("%.9g ", y[k]);
        return 0; }}"""
    found = numbers(compiled(tmp_path, f'#include <stdio.h>\n#include "model.h"\n{body}'))
    assert found == pytest.approx(expected, rel=1e-5)


def test_greedy_translations(tmp_path: Path) -> None:
    task: Any = perturb(TASKS["translator"].load(RUNS / "translator/run/last.safetensors"))
    sources = [np.random.default_rng(n).integers(3, len(task.source), n) for n in (1, 4, 9)]
    (tmp_path / "model.h").write_bytes(exported(task.model, task.config()))
    lines = [f"{{ const int x[] = {{{', '.join(map(str, x))}}}; show(x, {len(x)}); }}" for x in sources]
    body = f"""static model_workspace w;
    static void show(const int *x, int n) {{
        int out[64], from[64], k, count = model_translate(&w, x, n, out, from, 2 * n + 10);
        for (k = 0; k < count; k++) printf("%s %d ", model_target(out[k], NULL), from[k]);
        puts(""); }}
    int main(void) {{ const int one[1] = {{3}}; int y; {" ".join(lines)}
        if (model_find_target("nowhere", 7) != 3) return 1;
        return model_translate(&w, one, MODEL_MAX_STEPS + 1, &y, NULL, 1) != -1; }}"""
    found = output(compiled(tmp_path, f'#include <stdio.h>\n#include "model.h"\n{body}')).decode().splitlines()
    best = [task.model.generate(x[:, None])[0] for x in sources]
    pairs = [zip(one.tokens, one.attention.argmax(1), strict=True) for one in best]
    assert found == ["".join(f"{task.target.tokens[k]} {n} " for k, n in pair) for pair in pairs]
    assert max(len(one.tokens) for one in best) > 3


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_outputs_of_a_classifier_after_every_step_are_those_of_the_text_so_far(pooling: str, tmp_path: Path) -> None:
    model = prepared(ManyToOne(7, 5, 3, 2, "gru", pooling=pooling, embedding_size=4))
    labels = {"labels": {"names": ['"a"', "b\\", "??/"]}}
    (tmp_path / "model.h").write_bytes(exported(model, labels))
    tokens = record(model)["input"]
    body = """int main(void) { model_state s; float y[3]; int t, k; model_init(&s); for (t = -1; t < 12; t++) {
        if (t < 0) model_output(&s, y); else model_step(&s, model_test_input[t], y);
        for (k = 0; k < 3; k++) printf("%.9g ", (double)y[k]); }
        return strcmp(model_label(2, NULL), "?" "?/") || strcmp(model_label(1, NULL), "b\\\\"); }"""
    found = numbers(compiled(tmp_path, f'#define MODEL_TEST\n#include "model.h"\n{body}')).reshape(13, 3)
    expected = [model(np.zeros((1, 1), np.int64), [0]), *(model(tokens[:n, None]) for n in range(1, 13))]
    assert np.abs(found - np.concatenate([one.numpy() for one in expected])).max() < 1e-5


def test_a_sequence_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.h").write_bytes(exported(ManyToMany(2, 3, 1, bidirectional=True)))
    body = """int main(void) { static model_workspace w; static float x[2 * 200], y[200];
        return model_run(&w, x, MODEL_MAX_STEPS, y) || model_run(&w, x, MODEL_MAX_STEPS + 1, y) != -1
        || model_run(&w, x, -1, y) != -1 || model_run(&w, x, 0, y) || MODEL_MAX_STEPS != EXPECTED; }"""
    output(compiled(tmp_path, f'#define EXPECTED {MAX_STEPS}\n#include "model.h"\n{body}'))
    output(compiled(tmp_path, f'#define EXPECTED 9\n#define MODEL_MAX_STEPS 9\n#include "model.h"\n{body}'))


@pytest.mark.parametrize("name", ["", "1 layer", "int", "é*/\n", 'a"b-c'])
def test_any_name_becomes_one_of_c(name: str, tmp_path: Path) -> None:
    text = exported(OneToOne(2, 3, 1), name=name).decode()
    (tmp_path / "model.h").write_text(text)
    prefix = text.split("call ")[1].split("_test()")[0]
    output(compiled(tmp_path, None, (*STRICT, f"-D{prefix.upper()}_MAIN")))


def test_what_c_cannot_hold_is_refused() -> None:
    model = ManyToMany(2, 3, 1, dtype="float64")
    model.head.weight.data[0, 1] = 1e39
    with pytest.raises(OptionError, match="export to C: head holds a number that is not finite in float"):
        exported(model)
    model.head.weight.data[0, 1] = np.nan
    for int8 in (False, True):
        with pytest.raises(OptionError, match="holds a number that is not finite in float"):
            exported(model, int8=int8)

    with pytest.raises(OptionError, match='export to C: condition="every_step" of OneToMany is not supported'):
        exported(OneToMany(3, 5, 4, condition="every_step"))

    @mr.cell
    def huge(a: Any, /, h: Any) -> Any:
        return tanh(a + 1e300 * h)

    with pytest.raises(OptionError, match="a constant of the cell, 1e\\+300, is not finite as a float"):
        exported(ManyToMany(2, 3, 1, cell=huge, dtype="float64"))
