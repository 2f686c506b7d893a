"""From outputs of models to metrics and predictions: what tasks of sequences and classes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.autograd.tensor import Tensor
from minirnn.data.sequences import Buckets, pad
from minirnn.metrics import accuracy, macro_f1
from minirnn.nn import functional as F
from minirnn.nn.module import Module
from minirnn.tasks.base import Line, Prediction, mask_unseen, softmax


def run(model: Module, x: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Return the outputs [N, O], or of every step [T, N, O], of sequences [T, N, I] or tokens [T, N]."""
    found = model(x, lengths)
    return found[0] if isinstance(found, tuple) else found


def outputs_of(model: Module, inputs: Sequence[np.ndarray], batch_size: int) -> list[np.ndarray]:
    """Return the outputs [1, O], or of every step [T, O], of each sequence; batches are of similar lengths."""
    found = [np.empty(0)] * len(inputs)
    with model.evaluating():
        for batch in Buckets([len(x) for x in inputs], batch_size).in_order():
            x, lengths = pad([inputs[n] for n in batch])
            y = run(model, x, lengths).numpy()
            for k, n in enumerate(batch):
                found[n] = y[: lengths[k], k] if y.ndim == 3 else y[k : k + 1]
    return found


def class_metrics(logits: np.ndarray, classes: np.ndarray, count: int) -> dict[str, float]:
    """Return the mean ``loss`` in nats, ``accuracy``, and ``macro_f1`` of logits [N, C].

    Labels that training never saw, with numbers as in :func:`~minirnn.tasks.base.encode_labels`, are errors in
    ``accuracy`` and ``macro_f1``. ``loss`` is the mean over the others: that of an impossible label is infinite.
    """
    predicted = logits.argmax(1)
    return {
        "loss": F.cross_entropy(logits, mask_unseen(classes, count)).item(),
        "accuracy": accuracy(predicted, classes),
        "macro_f1": macro_f1(predicted, classes, max(count, int(classes.max()) + 1)),
    }


def class_facts(names: Sequence[str], logits: np.ndarray) -> dict[str, Any]:
    """Return the most likely ``label`` of logits [C], its ``probability``, and the ``probabilities`` of all labels."""
    probabilities = dict(zip(names, softmax(logits), strict=True))
    label = max(probabilities, key=probabilities.__getitem__)
    return {"label": label, "probability": probabilities[label], "probabilities": probabilities}


def with_id(id: str, prediction: Prediction) -> Prediction:
    """Return the prediction for a sequence with a name: with the id before every line, and among the facts."""
    text = "\n".join(f"{id}\t{line}" for line in prediction.text.split("\n"))
    return Prediction(text, {"id": id, **prediction.facts})


def joined(lines: Sequence[Line]) -> tuple[str, str]:
    """Return the name of the file that lines were read from, and its text."""
    where = lines[0].where if lines else "standard input"
    return where.rpartition(":")[0] or where, "\n".join(line.text for line in lines)
