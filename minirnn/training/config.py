"""How to train: the budget, the optimizer and its schedule, evaluations and saving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from minirnn import optim
from minirnn.config import Config, option
from minirnn.errors import OptionError
from minirnn.kernels.precision import PRECISIONS
from minirnn.nn.module import Module

BUDGETS = ("steps", "epochs", "minutes")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How to train. Exactly one of ``steps``, ``epochs`` and ``minutes`` is the budget.

    Raises:
        OptionError: a value is out of range, or there is not exactly one budget.
    """

    steps: int | None = option(None, "Train for this many steps.", minimum=1, group="Budget")
    epochs: float | None = option(
        None, "Train for this many passes over the data.", minimum=0, exclude_minimum=True, group="Budget"
    )
    minutes: float | None = option(
        None,
        "Train for this many minutes, without those in which kernels are compiled.",
        minimum=0,
        exclude_minimum=True,
        group="Budget",
    )
    patience: int | None = option(
        None, "Stop early after this many evaluations without a new best.", minimum=1, group="Budget"
    )
    lr: float = option(
        4e-3,
        "Peak learning rate.",
        minimum=0,
        exclude_minimum=True,
        flags=("--lr", "--learning-rate"),
        log=True,
        group="Training",
    )
    warmup: float = option(
        0.02, "Fraction of the budget over which the learning rate rises.", minimum=0, maximum=1, group="Training"
    )
    final_lr: float = option(0.01, "Final learning rate, as a fraction of the peak.", minimum=0, group="Training")
    optimizer: str = option("adamw", "Optimizer.", choices=tuple(optim.OPTIMIZERS), group="Training")
    beta1: float = option(0.9, "Adam: decay of the mean gradient.", minimum=0, maximum=0.9999, group="Training")
    beta2: float = option(
        0.99, "Adam: decay of the mean squared gradient.", minimum=0, maximum=0.9999999, group="Training"
    )
    weight_decay: float = option(0.0, "Weight decay.", minimum=0, group="Training")
    clip: float = option(1.0, "Maximum norm of the gradient; 0 for no clipping.", 0, math.inf, group="Training")
    precision: str = option(
        "fp32",
        "Of matrix products in training: bf16 multiplies bfloat16 and adds in float32; needs a CPU with avx512_bf16.",
        choices=PRECISIONS,
        group="Training",
    )
    average_every: int | None = option(
        None,
        "Local SGD over MPI: average the models of all processes every this many steps, not the gradients at each.",
        minimum=1,
        group="Training",
    )
    evaluations: int = option(
        20,
        "Evaluations over the whole budget, evenly spaced; fewer where they would take more than 5 % of the minutes.",
        minimum=1,
        group="Run",
    )
    log_every: int = option(10, "Steps between two lines of metrics.jsonl.", minimum=1, group="Run")
    save_every: int | None = option(
        None, "Save every this many steps, besides at evaluations and once a minute.", minimum=1, group="Run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise OptionError(f"expected one budget of {', '.join(BUDGETS)}, got {', '.join(given) or 'none'}")

    def optimizer_settings(self) -> dict[str, Any]:
        """Return the arguments of the optimizer."""
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        return settings | ({"betas": (self.beta1, self.beta2)} if self.optimizer in ("adam", "adamw") else {})

    def make_optimizer(self, model: Module) -> optim.Optimizer:
        """Return the optimizer of the model's trainable parameters."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return optim.OPTIMIZERS[self.optimizer](trainable, **self.optimizer_settings())

    def progress(self, step: int, epoch: float, seconds: float) -> float:
        """Return the fraction of the budget used, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.epochs is not None:
            return min(1.0, epoch / self.epochs)
        return min(1.0, seconds / (60 * (self.minutes or math.inf)))
