"""
An operation of your own
========================

An operation with a forward and a backward pass compiled by Numba, checked with finite differences and trained. ::

    python examples/own_operation.py [--steps 1500] [--plot shrink.png]

Softshrink moves every value towards zero by a width, max(abs(x) - width, 0) with the sign of x, so that small values
become exactly zero. The width of each feature is learned. Here it denoises sparse signals: most of their 32
coefficients in a hidden basis are zero, and noise is added to all of them. A linear layer, softshrink and a second
linear layer are one step of ISTA with learned matrices (Gregor & LeCun 2010, "Learning Fast Approximations of Sparse
Coding"). Expected squared error after 1,500 steps (some seconds): 0.0104 with softshrink, 0.0307 with the linear
layers alone.
"""

from __future__ import annotations

import argparse

import numba
import numpy as np

import minirnn as mr
import minirnn.nn.functional as F

SIZE, BATCH, NOISE = 32, 64, 0.2
BASIS = np.linalg.qr(np.random.default_rng(1).normal(size=(SIZE, SIZE)))[0]


@numba.njit
def shrink_forward(x: np.ndarray, width: np.ndarray) -> np.ndarray:
    """x [N, H], width [H]."""
    y = np.zeros_like(x)
    for n in range(x.shape[0]):
        for j in range(x.shape[1]):
            if x[n, j] > width[j]:
                y[n, j] = x[n, j] - width[j]
            elif x[n, j] < -width[j]:
                y[n, j] = x[n, j] + width[j]
    return y


@numba.njit
def shrink_backward(dy: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of x [N, H] and of width [H]; they are zero where y is."""
    dx, dwidth = np.zeros_like(dy), np.zeros_like(dy[0])
    for n in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            if y[n, j] != 0:
                dx[n, j] = dy[n, j]
                dwidth[j] -= dy[n, j] if y[n, j] > 0 else -dy[n, j]
    return dx, dwidth


@mr.operation
def softshrink(x, width):
    y = shrink_forward(x, width)
    return y, lambda dy: shrink_backward(dy, y)


class Denoiser(mr.nn.Module):
    """Linear, softshrink, linear; or the two linear layers alone."""

    def __init__(self, shrinks: bool) -> None:
        self.shrinks = shrinks
        self.analysis, self.synthesis = mr.nn.Linear(SIZE, SIZE), mr.nn.Linear(SIZE, SIZE)
        self.width = mr.nn.Parameter(mr.tensor(np.full(SIZE, 0.1)))

    def forward(self, x):
        code = self.analysis(x)
        return self.synthesis(softshrink(code, self.width) if self.shrinks else code)


def signals(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean signals [N, 32]; one coefficient in ten is not zero, on average."""
    clean = (rng.normal(size=(count, SIZE)) * (rng.random((count, SIZE)) < 0.1)) @ BASIS
    return (clean + NOISE * rng.normal(size=clean.shape)).astype(np.float32), clean.astype(np.float32)


def draw(path: str, noisy: np.ndarray, clean: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    """One signal of each kind."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(noisy, color="lightgray", lw=3, label="noisy")
    axes.plot(clean, "k", label="clean")
    for name, values in outputs.items():
        axes.plot(values, "--", label=name)
    axes.set(xlabel="sample", ylabel="signal")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    x = mr.tensor(rng.normal(size=(4, 3)), requires_grad=True, dtype="float64")
    width = mr.tensor([0.1, 0.5, 1.0], requires_grad=True, dtype="float64")
    print(f"gradients agree with finite differences: {mr.gradcheck(softshrink, [x, width])}")

    noisy, clean = signals(2000, np.random.default_rng(2))
    print(f"squared error of the noisy signals: {np.mean((noisy - clean) ** 2):.4f}")
    outputs = {}
    for shrinks in (False, True):
        mr.manual_seed(0)
        rng = np.random.default_rng(0)
        model = Denoiser(shrinks)
        optimizer = mr.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(options.steps):
            inputs, targets = signals(BATCH, rng)
            loss = F.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with model.evaluating():
            denoised = model(noisy)
            error = F.mse_loss(denoised, clean).item()
        name = "softshrink" if shrinks else "linear"
        outputs[name] = denoised.numpy()[0]
        print(f"{name:>10}: squared error {error:.4f}", flush=True)
    if options.plot:
        draw(options.plot, noisy[0], clean[0], outputs)


if __name__ == "__main__":
    main()
