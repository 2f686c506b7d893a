"""Optimisers with PyTorch's names, defaults and formulas: the same gradients give the same trajectory.

Each is one class: its options, the state it keeps for a parameter, and its update, one kernel over flat arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from minirnn.errors import OptionError
from minirnn.kernels.contract import Array, Kernels
from minirnn.optim.optimizer import Optimizer, Params
from minirnn.validation import check_float

Options = Mapping[str, Any]
State = Mapping[str, Array]
Betas = tuple[float, float]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964; Nesterov's form after Sutskever et al. 2013).

    With d = g + weight_decay p::

        v = momentum v + (1 - dampening) d        (v = d in the first step)
        p = p - lr v                              (nesterov: p - lr (d + momentum v))

    Args:
        params: parameters, or groups of them with options of their own.
        lr, weight_decay: learning rate; factor of the L2 penalty.
        momentum, dampening, nesterov: of the moving average v, as above.

    Raises:
        OptionError: also for ``nesterov`` without momentum or with dampening.
    """

    buffers: ClassVar = {"momentum_buffer": "momentum"}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"nesterov": nesterov})

    def _check(self, group: Options) -> None:
        super()._check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            got = f"momentum {group['momentum']!r} and dampening {group['dampening']!r}"
            raise OptionError(f"SGD: nesterov needs momentum above 0 and dampening 0, got {got}")

    def _update(self, K: Kernels, group: Options, step: int, p: Array, g: Array, state: State) -> None:
        momentum, dampening, weight_decay = group["momentum"], group["dampening"], group["weight_decay"]
        velocity, nesterov = state.get("momentum_buffer"), bool(group["nesterov"])
        K.sgd(p, g, velocity, group["lr"], momentum, dampening, weight_decay, nesterov, step == 1)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5); ``centered`` after Graves 2013 (arXiv:1308.0850).

    With d = g + weight_decay p::

        s = alpha s + (1 - alpha) d^2,   a = alpha a + (1 - alpha) d
        u = d / (sqrt(s) + eps)                   (centered: sqrt(s - a^2))
        v = momentum v + u,   p = p - lr v

    Args:
        params: parameters, or groups of them with options of their own.
        lr, weight_decay, eps: learning rate; factor of the L2 penalty; added to the denominator.
        alpha, momentum: decay rate of the averages s and a; of the update's average v.
        centered: divide by the standard deviation rather than the root mean square.
    """

    buffers: ClassVar = {"square_avg": None, "grad_avg": "centered", "momentum_buffer": "momentum"}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults | {"centered": centered})

    def _update(self, K: Kernels, group: Options, step: int, p: Array, g: Array, state: State) -> None:
        averages = state["square_avg"], state.get("grad_avg"), state.get("momentum_buffer")
        alpha, eps, weight_decay = group["alpha"], group["eps"], group["weight_decay"]
        K.rmsprop(p, g, *averages, group["lr"], alpha, eps, weight_decay, group["momentum"])


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011).

    With d = g + weight_decay p, in a parameter's t-th step::

        s = s + d^2                               (s starts from initial_accumulator_value)
        p = p - lr / (1 + (t - 1) lr_decay) d / (sqrt(s) + eps)

    Args:
        params: parameters, or groups of them with options of their own.
        lr, lr_decay, weight_decay: learning rate and its decay; factor of the L2 penalty.
        initial_accumulator_value, eps: initial value of s; added to the denominator.
    """

    buffers: ClassVar = {"sum": None}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
    ) -> None:
        defaults = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"initial_accumulator_value": initial_accumulator_value})

    def _update(self, K: Kernels, group: Options, step: int, p: Array, g: Array, state: State) -> None:
        lr = group["lr"] / (1 + (step - 1) * group["lr_decay"])
        K.adagrad(p, g, state["sum"], lr, group["eps"], group["weight_decay"])


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980).

    With d = g + weight_decay p, in a parameter's t-th step::

        m = beta1 m + (1 - beta1) d,   v = beta2 v + (1 - beta2) d^2
        p = p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        params: parameters, or groups of them with options of their own.
        lr, weight_decay, eps: learning rate; factor of the L2 penalty; added to the denominator.
        betas: decay rates (beta1, beta2) of the moving averages m and v, each in [0, 1).
    """

    buffers: ClassVar = {"exp_avg": None, "exp_avg_sq": None}
    _decoupled = False

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _check(self, group: Options) -> None:
        super()._check(group)
        name, betas = f"{self._name}: betas", group["betas"]
        if len(betas) != 2 or any(check_float(name, beta) >= 1 for beta in betas):
            raise OptionError(f"{name}: expected two numbers in [0, 1), got {betas!r}")

    def _update(self, K: Kernels, group: Options, step: int, p: Array, g: Array, state: State) -> None:
        (beta1, beta2), weight_decay = group["betas"], group["weight_decay"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        K.adam(p, g, m, v, step, group["lr"], beta1, beta2, group["eps"], weight_decay, self._decoupled)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    :class:`Adam` with d = g, after ``p = p - lr weight_decay p``.

    Args:
        params, lr, betas, eps: as for :class:`Adam`.
        weight_decay: the fraction of a parameter, times ``lr``, that each step takes off it.
    """

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
