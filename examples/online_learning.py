"""
A series that changes: learning from a stream
=============================================

A forecaster is trained on a series that swings slowly. Then the series itself changes, step by step, into one that
swings fast. One copy of the model is left as it is; another goes on learning from every new value, after it has
forecast it. ::

    python examples/online_learning.py [--steps 400] [--rows 1500] [--plot drift.png]

The series is x[t] = a x[t-1] + b x[t-2] + noise of variance 1, whose (a, b) move from (1.6, -0.8) to (-0.5, -0.6) over
the first 600 rows of the stream. No forecast can have a mean squared error below 1, that of the noise. Expected over
the last 500 of 1,500 rows (ten seconds in all): 5.5 left alone, 1.2 learning on.
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
from minirnn.data.forecasting import select_series
from minirnn.data.tables import parse_table
from minirnn.tasks.forecaster import Forecaster, ForecasterConfig
from minirnn.tasks.online import LearnConfig, learner
from minirnn.training import Trainer, TrainingConfig

CHANGES = 600
BEFORE, AFTER = np.array([1.6, -0.8]), np.array([-0.5, -0.6])


def table(rows: int, drifts: bool, rng: np.random.Generator) -> list[str]:
    """The lines of a table with a series of that many rows."""
    x = np.zeros(rows + 2)
    for t in range(rows):
        changed = min(1.0, t / CHANGES) if drifts else 0.0
        a, b = (1 - changed) * BEFORE + changed * AFTER
        x[t + 2] = a * x[t + 1] + b * x[t] + rng.normal()
    return ["x", *(f"{value:.5f}" for value in x[2:])]


# %%
# Every row of the stream is first forecast, then compared with the forecast, then learned from. With ``lr=0`` nothing
# is learned.


def squared_errors(forecaster: Forecaster, stream: list[str], lr: float) -> np.ndarray:
    """The squared error of each forecast."""
    mr.manual_seed(0)
    outcomes = list(learner(forecaster, LearnConfig(lr=lr)).run(stream))
    forecasts = [outcome.facts["horizon"][0] for outcome in outcomes[:-1]]
    return (np.array(forecasts) - [outcome.facts["value"] for outcome in outcomes[1:]]) ** 2


def draw(path: str, errors: dict[str, np.ndarray]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, squares in errors.items():
        width = min(100, len(squares))
        mean = np.convolve(squares, np.full(width, 1 / width), "valid")
        axes.plot(np.arange(len(squares) - len(mean), len(squares)), mean, label=name)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--", label="noise")
    axes.set(xlabel="row", ylabel="squared error, mean of 100 rows", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps before the stream begins")
    parser.add_argument("--rows", type=int, default=1500, help="rows of the stream")
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(1)
    history, stream = table(800, False, rng), table(options.rows, True, rng)
    config = ForecasterConfig(seq_length=12, season=1, hidden_size=16)
    forecaster = Forecaster.build(select_series(parse_table("history", "\n".join(history))), config)
    for _ in Trainer(forecaster, TrainingConfig(steps=options.steps)).fit():
        pass
    trained = {name: array.copy() for name, array in forecaster.model.state_dict().items()}
    errors = {}
    for name, lr in (("left alone", 0.0), ("learning on", 3e-3)):
        forecaster.model.load_state_dict(trained)
        errors[name] = squared_errors(forecaster, stream, lr)
        print(f"{name:>11}: mean squared error {errors[name].mean():.2f}, of the last third "
              f"{errors[name][-len(errors[name]) // 3 :].mean():.2f}")  # fmt: skip
    if options.plot:
        draw(options.plot, errors)


if __name__ == "__main__":
    main()
