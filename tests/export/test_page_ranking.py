"""The ranking of units for ``minirnn look``: properties of texts and scores, worked out by hand; the command."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import invoke, json_of, refusal

import minirnn as mr
from minirnn.data.text import Characters, Words
from minirnn.errors import OptionError
from minirnn.export.page import look, rank
from minirnn.export.page.ranking import memory, properties, ranks, separation
from minirnn.models import CharLM
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.words import WordGenerator

DATA = Path(__file__).parents[1] / "data_0_1"


def marks(flags: np.ndarray) -> str:
    return "".join("_^"[int(flag)] for flag in flags)


def test_properties_of_a_text() -> None:
    text = "f(\"a'b\") # it's\n  x = [Y['k']]\n"
    found = properties(text)
    assert {name: marks(found[name]) for name in found if found[name].dtype == bool} == {
        "inside quotes": "__^^^^__________" + "_________^^____",
        "inside a comment": "_________^^^^^^_" + "_______________",
        "inside brackets": "_^^^^^^_________" + "______^^^^^^^__",
        "after a capital": "________________" + "_______^_______",
    }
    assert found["position in line"].tolist() == [*range(1, 16), 0, *range(1, 15), 0]
    assert found["indentation"].tolist() == [0] * 16 + [1] + [2] * 13 + [0]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("don't 'tis it's", ""),
        ('say "to\nbe" now', '"to\nbe'),
        ('an inch" long\n\nother "', ""),
        ('"""a "b" c""" d', '"""a "b" c""'),
        (r"'a\'b' c", r"'a\'b"),
        ("“a «b» c”", "“a «b» c"),
        ("x http://y 'z' # 'q'", "'z"),
    ],
)
def test_quotations_in_prose_and_code(text: str, inside: str) -> None:
    flags = properties(text)["inside quotes"]
    assert "".join(symbol for symbol, flag in zip(text, flags, strict=True) if flag) == inside


def test_comments() -> None:
    text = "a /* b\nc */ d // e\nhttp://f # g"
    flags = properties(text)["inside a comment"]
    assert "".join(s for s, flag in zip(text, flags, strict=True) if flag) == "/* b\nc */// e# g"


def test_ranks_are_means_where_values_are_equal() -> None:
    x = np.array([[3.0, 0.1], [1, 0.4], [1, 0.2], [2, 0.3]], np.float32)
    np.testing.assert_array_equal(ranks(x), [[4, 1], [1.5, 4], [1.5, 2], [3, 3]])


def test_rank_correlation_with_numbers_is_spearmans() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)) where no two values are equal; -1, 1 and 0 at the extremes and of a constant."""
    rng = np.random.default_rng(0)
    x, numbers = rng.standard_normal((31, 2)), rng.permutation(31)
    for column in range(2):
        d = x[:, column].argsort().argsort() - numbers
        expected = 1 - 6 * (d**2).sum() / (31 * (31**2 - 1))
        assert separation(ranks(x), numbers)[column] == pytest.approx(expected, rel=1e-5)
    special = np.stack([numbers**3, -numbers, np.zeros(31)], 1)
    np.testing.assert_allclose(separation(ranks(special), numbers), [1, -1, 0], atol=1e-6)
    # by hand: ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 3, 4; covariance 3.75, variances 4.5 and 4.5
    tied = separation(ranks(np.array([[0.0], [1], [1], [2]])), np.array([5, 5, 6, 7]))
    assert tied[0] == pytest.approx(3.75 / 4.5)


def test_rank_correlation_with_yes_and_no_counts_pairs() -> None:
    x = np.random.default_rng(1).integers(0, 6, (40, 3)).astype(float)
    holds = np.arange(40) % 3 == 0
    yes, no = x[holds][:, None], x[~holds][None]
    expected = (yes > no).mean((0, 1)) - (yes < no).mean((0, 1))
    np.testing.assert_allclose(separation(ranks(x), holds), expected, rtol=1e-5)
    assert separation(ranks(holds[:, None] * 1.0), holds)[0] == pytest.approx(1)


def test_memory_is_the_lag_at_which_the_autocorrelation_is_below_1_e() -> None:
    x = np.random.default_rng(2).standard_normal((300, 4)).cumsum(0)
    x[:, 3] = np.cos(2 * math.pi * np.arange(300) / 60)
    centered = x - x.mean(0)
    correlation = np.array([(centered[k:] * centered[: 300 - k]).sum(0) for k in range(300)]) / (centered**2).sum(0)
    assert memory(x).tolist() == [int(np.flatnonzero(column < 1 / math.e)[0]) for column in correlation.T]
    square = np.repeat([1.0, -1], 4)[:, None]  # sums of products 8, 5, 2, ...: 1, 0.625, 0.25
    assert memory(square)[0] == 2
    assert memory(np.ones((5, 1)))[0] == 5


def test_units_that_follow_the_text_are_found() -> None:
    text = 'abc "quoted" and (in brackets) more\n' * 20
    rng, found = np.random.default_rng(3), properties(text)
    h = rng.uniform(-0.2, 0.2, (len(text), 4))
    h[:, 1] += found["inside quotes"]
    h[:, 2] -= 0.02 * found["position in line"]
    gate = rng.uniform(0, 1, (len(text), 4))
    gate[:, 3] -= 2 * found["inside brackets"]
    ranking = rank([{"h": h[:, ::-1], "i": gate}, {"h": h}], text, [["h"], ["h"]], best=2)
    first = {one["measure"]: one for one in reversed(ranking)}
    assert first["inside quotes"] == {
        "layer": 0,
        "value": "h",
        "unit": 2,
        "measure": "inside quotes",
        "score": 1.0,
        "sign": 1,
    }
    brackets = {name: first["inside brackets"][name] for name in ("layer", "value", "unit", "sign")}
    assert brackets == {"layer": 0, "value": "i", "unit": 3, "sign": -1}
    position = next(one for one in ranking if one["measure"] == "position in line" and one["layer"] == 1)
    assert (position["unit"], position["sign"]) == (2, -1)
    assert position["score"] > 0.8
    assert first["variance"]["score"] == pytest.approx(h.var(0).max())
    counts = [one["measure"] for one in ranking]
    assert all(counts.count(measure) == 2 for measure in counts)
    assert "after a capital" not in counts  # there is none
    assert rank([{"h": h[:1]}], "a", [["h"]]) == []


# -------------------------------------------------------------------------------------------------------- the command


def test_look_writes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = DATA / "char" / "run"
    assert invoke("look", str(run), "to be").stdout.startswith("run.html: 0.0")
    assert "does not know 'Q'" in invoke("look", str(run), "-o", "q.html", "Qto be").stderr
    Path("text.txt").write_text("to be\r\nor not to be\n")
    facts = json_of("look", str(run), "text.txt", "-o", "out/page.html")
    page = Path("out/page.html").read_bytes()
    assert facts["bytes"] == len(page)
    assert facts["cell"] == "gru, 2 x 4"
    data = json.loads(re.search(rb'<script type="application/json" id="model">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["text"] == "to be\nor not to be\n"
    assert data["ranking"] == facts["ranking"] != []
    assert invoke("look", str(run), "-", input="to be\r\nor not to be\n", code=0).stdout
    assert Path("run.html").read_bytes() == page
    assert b"<title>run</title>" in page


def test_hostile_names_and_texts_stay_data(tmp_path: Path) -> None:
    hostile = "</script><!--\u2028{{csp}}{{engine}}<script>alert(1)</script>\0\ud800"
    task = TextGenerator(CharLM(len(Characters.of(hostile[:-1])), 4, 1), Characters.of(hostile[:-1]))
    page = look(task, hostile, title=hostile[:-1]).decode()
    assert page.count("<script>") == page.count("</script>") - 1 == 2
    found = re.search(r'id="model">(.*?)</script>', page)
    assert found is not None
    assert json.loads(found[1])["text"] == hostile[:-1] + "\ufffd"
    assert "{{csp}}{{engine}}&lt;script&gt;" in page
    assert "default-src 'none'" in page


def diverged() -> TextGenerator:
    task = TextGenerator(CharLM(2, 4, 1), Characters("ab"))
    task.model.head.weight.data[0, 0] = math.nan
    return task


def test_what_cannot_be_shown_is_refused_in_one_line() -> None:
    expected = "look: expected a model of one of char, classifier, tagger, translator, got a"
    assert refusal("look", str(DATA / "forecaster" / "run")) == f"{expected} forecaster"
    assert refusal("look", str(DATA / "music" / "run")) == f"{expected} model of music"
    words = Words.of(["to be"])
    with pytest.raises(OptionError, match=f"{expected} word model"):
        look(WordGenerator(CharLM(len(words), 4, 1), words), "words.html")
    lstm: Any = mr.nn.LSTM(4, 4, proj_size=3)
    two_ways: Any = mr.nn.Recurrent("gru", 4, 3, bidirectional=True)
    cases = [
        (TextGenerator(CharLM(2, 3, 1, cell=lstm, embedding_size=4), Characters("ab")), "projection"),
        (
            TextGenerator(CharLM(2, 4, 1, cell=mr.nn.LSTMCell(4, 4)), Characters("ab")),
            "expected a cell",
        ),
        (TextGenerator(CharLM(2, 6, 1, cell=two_ways, embedding_size=4), Characters("ab")), "one direction"),
        (diverged(), "finite"),
        (CharLM(2, 4), "got CharLM"),
    ]
    for task, message in cases:
        with pytest.raises(OptionError, match=message):
            look(task)  # type: ignore[arg-type]
