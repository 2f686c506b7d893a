"""A tag for every word."""

from __future__ import annotations

from minirnn.export.numpy_program.data import CHARACTER_NUMBERS, LABELS, MAX_WORD_LENGTH, NUMBERS
from minirnn.export.numpy_program.tagger_model import run

UNK = 3


def letters(word: str) -> list[int]:
    """The numbers of a word's characters; of a long word both ends."""
    half = MAX_WORD_LENGTH // 2
    ends = word if len(word) <= MAX_WORD_LENGTH else word[:half] + word[-half:]
    return [CHARACTER_NUMBERS.get(character, UNK) for character in ends]


def predict(sentence: str) -> list[tuple[str, str]]:
    """The words of a sentence, which white space separates, and the tag of each."""
    words = sentence.split()
    if not words:
        return []
    logits = run([NUMBERS.get(word.lower(), UNK) for word in words], [letters(word) for word in words])
    return [(word, LABELS[tag]) for word, tag in zip(words, logits.argmax(1), strict=True)]


def example() -> str:
    """Some output."""
    return " ".join(f"{word}/{tag}" for word, tag in predict(" ".join(list(NUMBERS)[:5])))
