"""The training loop. :meth:`Trainer.fit` is a generator of steps; nothing here prints.

A :class:`Task` says what the batches of an epoch are, what the loss of one is, and how well the model does. After every
step the trainer calls its hooks in turn: :func:`evaluate`, :func:`write_metrics`, :func:`save_state`, and those of the
user (``trainer.hooks.append(...)``). What a person should know meanwhile is logged by ``logging.getLogger("minirnn")``.
"""

from minirnn.training.config import BUDGETS, TrainingConfig
from minirnn.training.task import Position, Step, Task
from minirnn.training.trainer import (
    MAX_ROLLBACKS,
    MAX_SKIPPED_STEPS,
    SAVE_SECONDS,
    Hook,
    Trainer,
    evaluate,
    evaluate_now,
    in_figures,
    metric_in_words,
    save_state,
    write_metrics,
)

__all__ = [
    "BUDGETS",
    "MAX_ROLLBACKS",
    "MAX_SKIPPED_STEPS",
    "SAVE_SECONDS",
    "Hook",
    "Position",
    "Step",
    "Task",
    "Trainer",
    "TrainingConfig",
    "evaluate",
    "evaluate_now",
    "in_figures",
    "metric_in_words",
    "save_state",
    "write_metrics",
]
