"""
A character model
=================

Train a character model with a training loop of your own, then sample from it. ::

    python examples/generate_text.py [FILE] [--minutes 1] [--plot loss.png]

Reads FILE, or without one the sources of Python's standard library. The loop is written out: batches, loss, backward
pass, clipping, optimizer step. Expected: after a minute on two CPU cores the loss on the Python sources is about 1.2
nats per character, and the sample resembles Python.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import minirnn as mr
from minirnn.data.corpus import read_characters
from minirnn.data.text import Streams


def evaluate(model: mr.models.CharLM, streams: Streams) -> float:
    """Mean loss, in nats per character; the state is carried from batch to batch."""
    losses, sizes, state = [], [], None
    with model.evaluating():
        for inputs, targets in streams:
            loss, state = model.loss(inputs, targets, state)
            losses.append(loss.item())
            sizes.append(targets.size)
    return float(np.average(losses, weights=sizes))


def draw(path: str, losses: list[float], validation: float) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(losses, lw=0.8, label="training")
    axes.axhline(validation, color="C1", ls="--", label=f"validation: {validation:.2f}")
    axes.set(xlabel="step", ylabel="nats per character")
    axes.legend()
    figure.savefig(path, dpi=120)


# %%
# The text is cut into 32 streams that are read side by side, 64 characters at a time. The state after a batch is the
# initial state of the next one, detached: this is truncated backpropagation through time.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="@python")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    mr.manual_seed(1337)
    tokens, symbols = read_characters([options.file])
    cut = int(0.9 * len(tokens))
    train = Streams.of(tokens[:cut], batch_size=32, seq_length=64)
    validation = Streams.of(tokens[cut : cut + 100_000], batch_size=32, seq_length=256)

    model = mr.models.CharLM(len(symbols), options.hidden, num_layers=2, cell="lstm")
    optimizer = mr.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.99))
    end = time.perf_counter() + 60 * options.minutes
    losses: list[float] = []
    running = True
    while running:
        state = None  # each pass over the text begins with a zero state
        for inputs, targets in train:
            logits, state = model(inputs, state)
            state = tuple(s.detach() for s in state)  # gradients stop at the beginning of this batch
            loss = mr.nn.functional.cross_entropy(logits.reshape(-1, len(symbols)), targets.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 200 == 0:
                print(f"step {len(losses)}: {losses[-1]:.3f} nats per character")
            if time.perf_counter() > end:
                running = False
                break
    error = evaluate(model, validation)
    print(f"validation: {error:.3f} nats per character")
    ids = model.generate(symbols.encode("\n"), 400, temperature=0.8, seed=1)
    print(symbols.decoder()(ids))
    if options.plot:
        draw(options.plot, losses, error)


if __name__ == "__main__":
    main()
