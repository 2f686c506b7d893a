"""FLOOR 3: optimisers, gradient clipping and learning-rate schedules over flat parameter buffers."""

from minirnn.optim import lr_scheduler
from minirnn.optim.clipping import clip_grad_norm_, clip_grad_value_
from minirnn.optim.flat import FlatParameters
from minirnn.optim.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}
"""The optimisers by the names that configurations and the command line use."""

__all__ = [
    "OPTIMIZERS", "SGD", "Adagrad", "Adam", "AdamW", "FlatParameters", "Optimizer", "RMSprop", "clip_grad_norm_", "clip_grad_value_",
    "lr_scheduler",
]  # fmt: skip
