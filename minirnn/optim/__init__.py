"""Optimisers, gradient clipping and learning-rate schedules, over flat parameter buffers."""

from minirnn.optim import lr_scheduler
from minirnn.optim.clipping import clip_grad_norm_, clip_grad_value_
from minirnn.optim.flat import FlatParameters
from minirnn.optim.optimizer import Optimizer
from minirnn.optim.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop

OPTIMIZERS: dict[str, type[Optimizer]] = {kind.__name__.lower(): kind for kind in (Adam, AdamW, SGD, RMSprop, Adagrad)}
"""The optimisers by the names that configurations and the command line use."""

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "FlatParameters",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]
