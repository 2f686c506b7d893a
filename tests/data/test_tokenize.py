"""Splitting and joining text: tokens worked out by hand, and nothing lost for any text."""

import dataclasses
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.tokenize import GLUE, RULES, Tokenizer
from minirnn.errors import DataError, OptionError

# The characters that the rules depend on, far more often than chance would bring them.
DENSE = st.text("aBé_7 \n\t\u00a0'\u2019.,!-\u0301\u093f\u200d\ufe0f😀日Σİ" + GLUE)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \n ", []),
        ("Hello", ["Hello"]),
        ("No, 3.14 (or so)!", ["No", "￭,", "3", "￭.￭", "14", "(￭", "or", "so", "￭)!"]),
        ("J'ai", ["J'", "ai"]),
        ("can't", ["can'", "t"]),
        ("l\u2019un d'eux", ["l\u2019", "un", "d'", "eux"]),
        ("qu'aujourd'hui", ["qu'", "aujourd'", "hui"]),
        ("the dogs' bone", ["the", "dogs", "￭'", "bone"]),
        ("dogs' 'n' o''x", ["dogs", "￭'", "'￭", "n", "￭'", "o", "￭''￭", "x"]),
        ("l'«ami»", ["l", "￭'«￭", "ami", "￭»"]),
        ("a - b-c -d e-", ["a", "-", "b", "￭-￭", "c", "-￭", "d", "e", "￭-"]),
        ("' a", ["'", "a"]),
        ("Ça va ?\u00a0Oui\u202f!", ["Ça", "va", "?", "Oui", "!"]),
        ("cafe\u0301 x\u0302y", ["café", "x\u0302y"]),
        ("हिन्दी, می\u200cروم", ["हिन्दी", "￭,", "می\u200cروم"]),
        ("ok 👍🏽👨\u200d👩\u200d👧❤️! 1️⃣", ["ok", "👍🏽👨\u200d👩\u200d👧❤️!", "1️⃣"]),
        ("我喜欢你。好", ["我喜欢你", "￭。￭", "好"]),
        ("snake_case x2", ["snake_case", "x2"]),
        (f"a{GLUE}b {GLUE} {GLUE}.", ["a", "b", "."]),
    ],
)
def test_word_rule_splits_words_and_symbols(text: str, tokens: list[str]) -> None:
    assert Tokenizer("word").split(text) == tokens


def test_space_and_char_rules() -> None:
    text = " Tom's\t\u00a0new  \r\ncar. "
    assert Tokenizer("space").split(text) == ["Tom's", "new", "car."]
    assert Tokenizer("char").split(text) == [*"Tom's new car."]
    assert Tokenizer("space").join(["Tom's", "new", "car."]) == "Tom's new car."
    assert Tokenizer("char").join([*"a b."]) == "a b."
    assert Tokenizer("char").split(GLUE) == [GLUE]


def test_text_is_normalized() -> None:
    text = "ÉTÉ e\u0301T\u212b ΑΣ"  # the Angstrom sign is another character than its letter
    for rule in RULES:
        assert Tokenizer(rule).join(Tokenizer(rule).split(text)) == "ÉTÉ éT\u00c5 ΑΣ"
        assert Tokenizer(rule, lower=True).join(Tokenizer(rule, lower=True).split(text)) == "été ét\u00e5 ας"


@given(st.sampled_from(RULES), st.booleans(), st.text() | DENSE)
def test_join_is_the_inverse_of_split(rule: str, lower: bool, text: str) -> None:
    """Up to the normalization, written out here independently; and joined text is split into the same tokens."""
    tokenizer = Tokenizer(rule, lower)
    expected = unicodedata.normalize("NFC", text.lower() if lower else text)
    if rule == "word":
        expected = expected.replace(GLUE, " ")
    expected = " ".join(expected.split())
    tokens = tokenizer.split(text)
    assert tokenizer.join(tokens) == tokenizer.normalize(text) == expected
    assert tokenizer.split(expected) == tokens


@given(DENSE)
def test_every_token_is_a_word_or_a_symbol(text: str) -> None:
    for token in Tokenizer("word").split(text):
        core = token.strip(GLUE)
        assert core
        if core[0].isalnum() or core[0] == "_":
            assert token == core
            word = core[:-1] if core[-1] in "'\u2019" else core
            assert all(c.isalnum() or c in "_\u200d" or unicodedata.category(c)[0] == "M" for c in word)
        else:
            assert not any(c.isspace() or c.isalnum() or c == "_" for c in core)


def test_every_character_survives_beside_words_spaces_and_symbols() -> None:
    tokenizer = Tokenizer("word")
    for start, stop in ((0, 0xD800), (0xE000, 0x20000), (0xE0000, 0xE0200)):  # between: letters, or unassigned
        text = "".join(f"a{c}b {c} .{c}' " for c in map(chr, range(start, stop)))
        assert tokenizer.join(tokenizer.split(text)) == tokenizer.normalize(text)


def test_any_tokens_can_be_joined() -> None:
    """As a model writes them: symbols and parts of words anywhere."""
    join = Tokenizer("word").join
    assert join(["J'", "<unk>", "￭.", "(￭", "￭)", "J'", "￭,￭", "x"]) == "J'<unk>. () J',x"
    assert join(["￭!", "a", GLUE, "b", "", "'", "c"]) == "! ab  ' c"
    assert join([]) == ""


def test_config_round_trip() -> None:
    for tokenizer in (Tokenizer("char", True), Tokenizer()):
        assert Tokenizer.from_config(json.loads(json.dumps(tokenizer.to_config()))) == tokenizer
    assert Tokenizer().to_config() == {"rule": "word", "lower": False}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Tokenizer().rule = "char"  # type: ignore[misc]
    with pytest.raises(OptionError, match="tokenizer: rule: expected one of space, char, word, got 'bpe'"):
        Tokenizer("bpe")


@pytest.mark.parametrize(
    ("rule", "lower"), [(None, None), ("word", None), ("bpe", True), (["word"], True), ("word", 1)]
)
@pytest.mark.parametrize("container", [dict, list, lambda config: None])
def test_untrusted_configs_are_checked(rule: Any, lower: Any, container: Any) -> None:
    config = container({"rule": rule, "lower": lower})
    with pytest.raises(DataError, match=r"tokenizer: expected a rule \(space, char, word\) and lower, a bool, got"):
        Tokenizer.from_config(config)
