"""
Points on spirals: a feed-forward network
=========================================

One-to-one: a network learns on which of three spiral arms a point lies. ::

    python examples/feed_forward.py [--steps 1500] [--plot spirals.png]

The points are generated: three arms wound around the origin, with noise. A linear model cannot separate them
(accuracy about 0.5); a network with two hidden layers can. Expected test accuracy after 1,500 steps (a few seconds):
linear 0.50, network 0.99.
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F


def spirals(points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 2] and the index of the arm of each [N]."""
    arm = rng.integers(0, 3, points)
    radius = rng.random(points)
    angle = 2 * np.pi * arm / 3 + 4 * radius + rng.normal(0, 0.2, points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), arm


def predict(model: mr.models.OneToOne, x: np.ndarray) -> np.ndarray:
    """The most likely arm of each point [N]."""
    with model.evaluating():
        return model(x).numpy().argmax(1)


# %%
# The picture colours the plane by the arm that each model predicts, and shows the test points.


def draw(path: str, models: dict[str, mr.models.OneToOne], x: np.ndarray, y: np.ndarray) -> None:
    from matplotlib import pyplot as plt

    grid = np.linspace(-1.1, 1.1, 200)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    figure, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    for axes, (name, model) in zip(panels, models.items(), strict=True):
        axes.pcolormesh(grid, grid, predict(model, points).reshape(200, 200), cmap="Pastel1", vmin=0, vmax=8)
        axes.scatter(*x.T, c=y, s=4, cmap="Set1", vmin=0, vmax=8)
        axes.set(title=f"{name}: accuracy {np.mean(predict(model, x) == y):.2f}", aspect="equal")
    figure.savefig(path, dpi=120)


# %%
# Both models train with the same loop: a batch, the loss, the backward pass, a step of Adam.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    mr.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = spirals(2000, rng)
    x_test, y_test = spirals(1000, rng)
    models = {
        "linear": mr.models.OneToOne(2, 64, 3, num_layers=0),
        "network": mr.models.OneToOne(2, 64, 3, num_layers=2, activation="relu"),
    }
    for name, model in models.items():
        optimizer = mr.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(options.steps):
            batch = rng.integers(0, len(x), 64)
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"{name:>8}: loss {loss.item():.3f}, test accuracy {np.mean(predict(model, x_test) == y_test):.3f}")
    if options.plot:
        draw(options.plot, models, x_test, y_test)


if __name__ == "__main__":
    main()
