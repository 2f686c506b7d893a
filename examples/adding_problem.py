"""
The adding problem
==================

A memory of 200 steps: the LSTM and the GRU learn it, the plain RNN does not. ::

    python examples/adding_problem.py [--length 200] [--steps 3000] [--plot errors.png]

The input of each of T steps is a number from [0, 1] and a marker; two steps are marked, one in each half. The
target, at the end, is the sum of the two marked numbers (Hochreiter & Schmidhuber 1997, experiment 4). Always
predicting 1, the mean, gives a squared error of 1/6 = 0.167. Expected after 3,000 steps (a minute): RNN 0.164, LSTM
0.0005, GRU 0.0001.
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F

LEARNING_RATE = {"rnn": 1e-3, "lstm": 4e-3, "gru": 4e-3}


def problems(length: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [T, N, 2], number and marker, and the sums [N, 1]."""
    x = np.zeros((length, count, 2), np.float32)
    x[:, :, 0] = rng.random((length, count))
    n = np.arange(count)
    first, second = rng.integers(0, length // 2, count), rng.integers(length // 2, length, count)
    x[first, n, 1] = x[second, n, 1] = 1
    return x, (x[first, n, 0] + x[second, n, 0])[:, None]


def draw(path: str, errors: dict[str, dict[int, float]], baseline: float) -> None:
    """Test error over training steps, by cell."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for cell, curve in errors.items():
        axes.semilogy(list(curve), list(curve.values()), label=cell)
    axes.axhline(baseline, color="gray", ls="--", lw=1, label="always 1")
    axes.set(xlabel="step", ylabel="squared error on the test set")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    x_test, y_test = problems(options.length, 1000, np.random.default_rng(1))
    baseline = float(np.mean((1 - y_test) ** 2))
    print(f"T={options.length}; always predicting 1: {baseline:.4f}")
    errors: dict[str, dict[int, float]] = {}
    for cell in ("rnn", "lstm", "gru"):
        mr.manual_seed(0)
        rng = np.random.default_rng(0)
        model = mr.models.ManyToOne(2, 64, 1, cell=cell)
        optimizer = mr.optim.Adam(model.parameters(), lr=LEARNING_RATE[cell])
        errors[cell] = {}
        for step in range(1, options.steps + 1):
            x, y = problems(options.length, 64, rng)
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % max(1, options.steps // 20) == 0:
                with model.evaluating():
                    errors[cell][step] = F.mse_loss(model(x_test), y_test).item()
        print(f"{cell:>4}  step {options.steps}  squared error {errors[cell][step]:.4f}", flush=True)
    if options.plot:
        draw(options.plot, errors, baseline)


if __name__ == "__main__":
    main()
