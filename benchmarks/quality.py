"""What the commands reach on real data with default settings: the table of results in the documentation.

    python benchmarks/quality.py DATA [ROW ...] [--seeds 1337]

DATA is a folder with the data sets (the function of a row names the files it reads). Every row splits off its test set
first, trains with the command on the rest, in a process and a folder of its own, and scores the test set once with
``minirnn eval --json``. One JSON object per row is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minirnn as mr
from minirnn.data.text import Streams
from minirnn.metrics import accuracy, macro_f1
from minirnn.tasks.char import EVAL_STEPS, EVAL_STREAMS, read_corpus

HELD_OUT_SEED = 20_240  # of the random tenths that are test sets
FALLBACK_DISCOUNTS = [0.0, 0.5, 1.0, 1.5]  # where counts are too few to estimate them (KenLM's)
INTERVAL = ("--quantiles", "0.1,0.5,0.9")


def minirnn(*arguments: Any, cwd: Path) -> str:
    """Run a command and return its standard output."""
    words = [sys.executable, "-m", "minirnn_cli.main", *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}")
    return done.stdout


def train_and_score(
    cwd: Path, command: str, train: Sequence[Any], test: Path, minutes: float, seed: int, *options: Any
) -> dict[str, Any]:
    """Train, and return the metrics of the best checkpoint on the test file."""
    out = cwd / f"run-{seed}"
    minirnn(command, *train, "--minutes", minutes, "--seed", seed, "--out", out, *options, cwd=cwd)
    return json.loads(minirnn("eval", out, test, "--json", cwd=cwd))


def tenth(count: int) -> np.ndarray:
    """A mask [count] of the examples in the test set: a random tenth, always the same."""
    mask = np.zeros(count, bool)
    mask[np.random.default_rng(HELD_OUT_SEED).permutation(count)[: count // 10]] = True
    return mask


def write_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    path.write_text("".join(f"{first}\t{second}\n" for first, second in pairs), encoding="utf-8")
    return path


def sentiment(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    texts = {label: (data / f"mr_polarity/rt-polarity.{label}").read_text(encoding="utf-8") for label in ("neg", "pos")}
    pairs = [(line.strip(), label) for label, text in texts.items() for line in text.splitlines()]
    held = tenth(len(pairs))
    train = write_pairs(cwd / "train.tsv", [p for p, out in zip(pairs, held, strict=True) if not out])
    test = write_pairs(cwd / "test.tsv", [p for p, out in zip(pairs, held, strict=True) if out])
    return train_and_score(cwd, "train-classifier", [train], test, 3, seed)


def surnames(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    files = sorted((data / "names_nationality").glob("*.txt"))
    pairs = [(name.strip(), f.stem) for f in files for name in f.read_text(encoding="utf-8").splitlines()]
    held = tenth(len(pairs))
    for f in files:
        (cwd / "train").mkdir(exist_ok=True)
        names = [n for (n, label), out in zip(pairs, held, strict=True) if label == f.stem and not out]
        (cwd / "train" / f.name).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    test = [p for p, out in zip(pairs, held, strict=True) if out]
    found = train_and_score(cwd, "train-classifier", ["train"], write_pairs(cwd / "test.tsv", test), 2, seed)
    return found | surname_baselines([p for p, out in zip(pairs, held, strict=True) if not out], test)


def surname_baselines(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The majority class, and naive Bayes over character bigrams with add-one smoothing."""
    classes = sorted({label for _, label in train})
    number = {label: n for n, label in enumerate(classes)}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sizes = Counter(label for _, label in train)

    def bigrams(name: str) -> list[str]:
        padded = f"^{name}$"
        return [padded[n : n + 2] for n in range(len(padded) - 1)]

    for name, label in train:
        counts[label].update(bigrams(name))
    different = len(set().union(*counts.values()))

    def score(name: str, label: str) -> float:
        total = sum(counts[label].values()) + different
        return math.log(sizes[label]) + sum(math.log((counts[label][pair] + 1) / total) for pair in bigrams(name))

    expected = np.array([number[label] for _, label in test])
    bayes = np.array([number[max(classes, key=lambda label: score(name, label))] for name, _ in test])
    majority = np.full(len(test), number[sizes.most_common(1)[0][0]])
    return {
        "majority_accuracy": accuracy(majority, expected),
        "majority_macro_f1": macro_f1(majority, expected, len(classes)),
        "bayes_accuracy": accuracy(bayes, expected),
        "bayes_macro_f1": macro_f1(bayes, expected, len(classes)),
    }


def tagging(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    folder = data / "ud_ewt"
    return train_and_score(
        cwd, "train-tagger", [folder / "train.form-upos-xpos.tsv"], folder / "dev.form-upos-xpos.tsv", 5, seed
    )


def sorting(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    sides = [(data / f"letters_sort/letters_{side}.txt").read_text().splitlines() for side in ("source", "target")]
    pairs = list(zip(*sides, strict=True))
    train, test = write_pairs(cwd / "train.tsv", pairs[:-1000]), write_pairs(cwd / "test.tsv", pairs[-1000:])
    return train_and_score(cwd, "train-translator", [train], test, 4, seed, "--level", "char")


def french(data: Path, cwd: Path, seed: int, *options: str) -> dict[str, Any]:
    lines = (data / "tatoeba/eng-fra_40k.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (cwd / "train.tsv").write_text("".join(lines[:-2000]), encoding="utf-8")
    (cwd / "test.tsv").write_text("".join(lines[-2000:]), encoding="utf-8")
    return train_and_score(cwd, "train-translator", ["train.tsv"], cwd / "test.tsv", 10, seed, *options)


def french_without_attention(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    return french(data, cwd, seed, "--attention", "none")


def digits(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    script = Path(__file__).parents[1] / "examples" / "read_digits.py"
    done = subprocess.run(
        [sys.executable, str(script), "--data", str(data / "mnist")],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return {"accuracy": float(done.stdout.splitlines()[-1].split()[4])}


def music(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    chorales = data / "music/jsb_chorales.json"
    return train_and_score(cwd, "train-music", [chorales], chorales, 5, seed)


def airline(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    return _series(cwd, data / "timeseries/airline-passengers.csv", seed)


def sunspots(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    return _series(cwd, data / "timeseries/monthly-sunspots.csv", seed)


def temperatures(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    return _series(cwd, data / "timeseries/daily-min-temperatures.csv", seed)


def sunspot_intervals(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    return _series(cwd, data / "timeseries/monthly-sunspots.csv", seed, *INTERVAL)


def temperature_intervals(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    return _series(cwd, data / "timeseries/daily-min-temperatures.csv", seed, *INTERVAL)


def _series(cwd: Path, table: Path, seed: int, *options: str) -> dict[str, Any]:
    """Train on the first two thirds of the rows; ``eval`` on the whole file scores the rows after them."""
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with open(cwd / "train.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows[: 1 + (len(rows) - 1) * 2 // 3])
    return train_and_score(cwd, "train-forecaster", ["train.csv"], table, 1, seed, *options)


def vowels(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    """Five-fold cross-validation by utterance: the mean accuracy, and that of each fold."""
    header, *rows = (data / "series/japanese_vowels_train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    ids = [row.split(",")[0] for row in rows]
    shuffled = np.random.default_rng(HELD_OUT_SEED).permutation(sorted({*ids}, key=int))
    found = []
    for number, fold in enumerate(np.array_split(shuffled, 5)):
        held = {*fold.tolist()}
        folder = cwd / f"fold-{number}"
        folder.mkdir()
        for name, inside in (("train.csv", False), ("test.csv", True)):
            chosen = [row for row, id in zip(rows, ids, strict=True) if (id in held) == inside]
            (folder / name).write_text("".join([header, *chosen]), encoding="utf-8")
        options = ("--id", "utterance", "--label", "speaker")
        found.append(train_and_score(folder, "train-series", ["train.csv"], folder / "test.csv", 1, seed, *options))
    accuracies = [one["accuracy"] for one in found]
    return {"accuracy": float(np.mean(accuracies)), "folds": accuracies}


def spoken_digits(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    """Known speakers: the first five recordings of each digit and speaker are the test set."""
    paths = sorted((data / "spoken_digits").glob("*.wav"))
    return _recordings(cwd, paths, [int(path.stem.split("_")[2]) < 5 for path in paths], seed)


def unknown_speaker(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    """Each speaker in turn is the test set: accuracies, and their mean."""
    paths = sorted((data / "spoken_digits").glob("*.wav"))
    speakers = [path.stem.split("_")[1] for path in paths]
    found = {}
    for speaker in sorted(set(speakers)):
        (cwd / speaker).mkdir()
        held = [one == speaker for one in speakers]
        found[speaker] = _recordings(cwd / speaker, paths, held, seed)["accuracy"]
    return found | {"accuracy": float(np.mean(list(found.values())))}


def _recordings(cwd: Path, paths: Sequence[Path], held: Sequence[bool], seed: int) -> dict[str, Any]:
    for part in ("train", "test"):
        (cwd / part).mkdir()
    for path, out in zip(paths, held, strict=True):
        (cwd / ("test" if out else "train") / path.name).symlink_to(path)
    return train_and_score(cwd, "train-speech", ["train"], cwd / "test", 3, seed)


def spoken_numbers(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    script = Path(__file__).parents[1] / "examples" / "spoken_digits.py"
    command = [sys.executable, str(script), "--data", str(data / "spoken_digits"), "--write", "numbers"]
    subprocess.run(command, cwd=cwd, stdout=sys.stderr, check=True)
    return train_and_score(cwd, "train-speech", ["numbers/train.tsv"], cwd / "numbers/test.tsv", 5, seed)


def words(data: Path, cwd: Path, seed: int) -> dict[str, Any]:
    """The last tenth of the lines is the test set; the trigrams are of the same tokens, and predict the same ones."""
    lines = (data / "tinyshakespeare/input.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("train.txt", lines[: -(len(lines) // 10)]), ("test.txt", lines[-(len(lines) // 10) :])):
        (cwd / name).write_text("".join(part), encoding="utf-8")
    found = train_and_score(cwd, "train-words", ["train.txt"], cwd / "test.txt", 5, seed)
    symbols = mr.load(cwd / f"run-{seed}").symbols
    train, test = (read_corpus([str(cwd / name)], symbols).tokens for name in ("train.txt", "test.txt"))
    trigrams, streams = KneserNey(train.tolist(), len(symbols)), Streams.of(test, EVAL_STREAMS, EVAL_STEPS).tokens
    predicted = np.arange(streams.size).reshape(streams.shape)[:, 1:].ravel()
    nats = -np.log([trigrams.probability(test[max(0, n - 2) : n].tolist(), int(test[n])) for n in predicted])
    return found | {"kneser_ney_perplexity": float(np.exp(nats.mean()))}


class KneserNey:
    """Trigrams by interpolated modified Kneser-Ney smoothing (Chen & Goodman 1999, section 3 and equation 26).

    Args:
        tokens: of the training set. size: the number of tokens in the vocabulary.
    """

    def __init__(self, tokens: Sequence[int], size: int) -> None:
        self.size = size
        self.counts: list[Counter[tuple[int, ...]]] = [Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))]
        for _ in range(2):  # lower orders count the different words before
            self.counts.append(Counter(gram[1:] for gram in self.counts[-1]))
        self.discounts, self.totals, self.left_over = [], [], []
        for counts in self.counts:
            of = Counter(counts.values())
            discounts = FALLBACK_DISCOUNTS
            if all(of[k] for k in (1, 2, 3)):
                y = of[1] / (of[1] + 2 * of[2])
                found = [0.0, *(k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3))]
                discounts = found if min(found) >= 0 else discounts
            total, left_over = Counter[tuple[int, ...]](), defaultdict[tuple[int, ...], float](float)
            for gram, count in counts.items():
                total[gram[:-1]] += count
                left_over[gram[:-1]] += discounts[min(count, 3)]
            self.discounts.append(discounts)
            self.totals.append(total)
            self.left_over.append(left_over)

    def probability(self, before: Sequence[int], token: int) -> float:
        """The probability of a token after the tokens ``before``, of which the last two count."""
        found = 1 / self.size
        for n in range(min(len(before), 2) + 1):
            counts, discounts, total, left_over = (
                part[-1 - n] for part in (self.counts, self.discounts, self.totals, self.left_over)
            )
            history = tuple(before[len(before) - n :])
            if history in total:
                count = counts[*history, token]
                kept = count - discounts[min(count, 3)]
                found = (kept + left_over[history] * found) / total[history]
        return found


ROWS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "sentiment": sentiment,
    "surnames": surnames,
    "tagging": tagging,
    "sorting": sorting,
    "french": french,
    "french-without-attention": french_without_attention,
    "digits": digits,
    "music": music,
    "airline": airline,
    "sunspots": sunspots,
    "temperatures": temperatures,
    "sunspot-intervals": sunspot_intervals,
    "temperature-intervals": temperature_intervals,
    "vowels": vowels,
    "spoken-digits": spoken_digits,
    "unknown-speaker": unknown_speaker,
    "spoken-numbers": spoken_numbers,
    "words": words,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337])
    options = parser.parse_args()
    if unknown := set(options.rows) - ROWS.keys():
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    for row in options.rows or ROWS:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                found = ROWS[row](options.data.resolve(), Path(folder), seed)
            print(json.dumps({"row": row, "seed": seed} | found), flush=True)


if __name__ == "__main__":
    main()
