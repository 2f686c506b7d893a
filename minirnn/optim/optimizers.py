"""Optimisers with PyTorch's names, defaults and formulas: the same gradients give the same trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor
from minirnn.errors import CheckpointError, OptionError, ShapeError
from minirnn.optim.flat import FlatParameters

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
"""Parameters, or groups ``{"params": [...], "lr": ...}`` whose options override the optimiser's."""

_NUMBER = int | float | np.integer | np.floating
_NOT_NEGATIVE = ("lr", "momentum", "weight_decay", "alpha", "eps", "lr_decay", "initial_accumulator_value")


class _Part:
    """Parameters of one group that share dtype and device: their layout and the state laid out likewise."""

    def __init__(self, indices: Sequence[int], params: Sequence[Tensor]) -> None:
        self.indices = indices  # positions within the group
        self.flat = FlatParameters(params)
        self.steps = [0] * len(params)
        self.buffers: dict[str, Any] = {}

    def buffer(self, name: str, fill: float) -> Any:
        """The flat state array ``name``, made at its first use."""
        array = self.buffers.get(name)
        if array is None:
            data = self.flat.data
            array = self.buffers[name] = kernels.on(self.flat.device).zeros(data.shape, data.dtype)
            array[...] = fill
        return array


class Optimizer:
    """Base of all optimisers.

    Args:
        params: parameters, or a list of group dicts with PyTorch's keys.
        defaults: the options of groups that do not have their own.

    A parameter without a gradient is skipped, and its step count stands still. ``param_groups`` may be changed
    between steps, which is how learning-rate schedules work.

    Raises:
        OptionError: no parameters, something that is no leaf tensor of floats, the same parameter twice, or an
            option out of its range.
    """

    state_names: ClassVar[tuple[str, ...]]
    """The arrays this optimiser may keep for a parameter, by PyTorch's names."""

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._parts: list[list[_Part]] = []
        entries = self._listed(params)
        if not entries:
            raise OptionError(f"{self._name}: got an empty list of parameters")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _listed(self, params: Any) -> list[Any]:
        if isinstance(params, Tensor | set | Mapping) or not isinstance(params, Iterable):
            raise OptionError(
                f"{self._name}: params must be an ordered iterable of tensors or of group dicts, got a "
                f"{type(params).__name__}"
            )
        return list(params)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Train more parameters: ``{"params": tensor or tensors, option: value, ...}``."""
        if not isinstance(group, dict) or "params" not in group:
            raise OptionError(f"{self._name}: a group must be a dict with 'params', got {group!r}")
        given = group["params"]
        params = [given] if isinstance(given, Tensor) else self._listed(given)
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for number, p in enumerate(params):
            problem = None
            if not isinstance(p, Tensor):
                problem = f"is a {type(p).__name__}"
            elif p.node is not None:
                problem = f"was computed by {p.node.name}"
            elif p.dtype.kind != "f":
                problem = f"holds {p.dtype}"
            elif id(p) in taken:
                problem = "is here already"
            if problem:
                raise OptionError(
                    f"{self._name}: expected distinct leaf tensors of floats; parameter {number} {problem}"
                )
            taken.add(id(p))
        group = {**self.defaults, **group, "params": params}
        self._check(group)
        self.param_groups.append(group)
        self._parts.append(self._lay_out(group, [{}] * len(params)))

    def _check(self, group: Mapping[str, Any]) -> None:
        for option in _NOT_NEGATIVE:
            value = group.get(option, 0)
            if not isinstance(value, _NUMBER) or not 0 <= value < math.inf:
                raise OptionError(f"{self._name}: {option} must be a finite number of at least 0, got {value!r}")

    # --------------------------------------------------------------------------------------------- steps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or with ``set_to_none=False`` fill those there are with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.data[...] = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients again; its result is returned.

        Raises:
            GradientError: an assigned gradient does not have its parameter's shape.
            ShapeError: a parameter's shape has changed.
        """
        loss = None if closure is None else closure()
        for number, group in enumerate(self.param_groups):
            buffers = self._buffers(group)
            for part in self._current_parts(number):
                flat, steps = part.flat, part.steps
                kernel = kernels.on(flat.device)
                arrays = [flat.data, flat.grad, *(part.buffer(name, fill) for name, fill in buffers.items())]
                for first, last, step in flat.runs(steps):
                    span = flat.span(first, last)
                    if span.start < span.stop:
                        self._update(kernel, group, step + 1, *(array[span] for array in arrays))
                    if buffers:  # an update that leaves no state behind is not counted
                        steps[first:last] = [step + 1] * (last - first)
        return loss

    def _buffers(self, group: Mapping[str, Any]) -> dict[str, float]:
        """The state arrays a group needs now, with the value they start from."""
        raise NotImplementedError

    def _update(self, kernel: Any, group: Mapping[str, Any], step: int, p: Any, g: Any, *state: Any) -> None:
        """Update flat parameters ``p`` by their gradient ``g`` in their ``step``-th step (from 1), in place.

        ``state`` is in the order of :meth:`_buffers`. Options are made float, for each new combination of
        argument types would compile the kernel again.
        """
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------- layout

    def _current_parts(self, number: int) -> list[_Part]:
        """The parts of a group, laid out again if somebody rebound one of its parameters."""
        parts = self._parts[number]
        if not all(part.flat.intact() for part in parts):
            for part in parts:
                for p, shape in zip(part.flat.params, part.flat.shapes, strict=True):
                    if p.shape != shape:
                        raise ShapeError(
                            f"{self._name}: a parameter had shape {list(shape)}, now it has {list(p.shape)}; "
                            "make a new optimiser"
                        )
            parts = self._parts[number] = self._lay_out(self.param_groups[number], self._entries(number))
        return parts

    def _lay_out(self, group: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[_Part]:
        """Parts for a group whose parameters have the state ``entries``."""
        params, fills = group["params"], self._buffers(group)
        alike: dict[tuple[str, str], list[int]] = {}
        for i, p in enumerate(params):
            alike.setdefault((p.dtype.name, p.device), []).append(i)
        parts = []
        for indices in alike.values():
            part = _Part(indices, [params[i] for i in indices])
            part.steps = [entries[i].get("step", 0) for i in indices]
            for name in {name: None for i in indices for name in entries[i] if name != "step"}:
                views = part.flat.views_of(part.buffer(name, fills.get(name, 0.0)))
                for i, view in zip(indices, views, strict=True):
                    if name in entries[i]:
                        view[...] = kernels.on(part.flat.device).asarray(entries[i][name])
            parts.append(part)
        return parts

    def _entries(self, number: int) -> list[dict[str, Any]]:
        """The state of each parameter of a group, as NumPy arrays that may share the optimiser's memory."""
        entries: list[dict[str, Any]] = [{} for _ in self.param_groups[number]["params"]]
        for part in self._parts[number]:
            to_numpy = kernels.on(part.flat.device).to_numpy
            views = {name: part.flat.views_of(array) for name, array in part.buffers.items()}
            for position, (i, step) in enumerate(zip(part.indices, part.steps, strict=True)):
                if step:
                    entries[i] = {"step": step, **{name: to_numpy(v[position]) for name, v in views.items()}}
        return entries

    # ---------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on: ``{"state": {index: {...}}, "param_groups": [...]}`` as in PyTorch.

        Arrays are copies in NumPy; all else is numbers and what the groups hold.
        """
        state: dict[int, dict[str, Any]] = {}
        groups = []
        count = 0
        for number, group in enumerate(self.param_groups):
            indices = list(range(count, count + len(group["params"])))
            groups.append({**group, "params": indices})
            for index, entry in zip(indices, self._entries(number), strict=True):
                if entry:
                    state[index] = {name: np.array(v) if name != "step" else v for name, v in entry.items()}
            count += len(indices)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict` bit for bit; also reads PyTorch's, with its arrays as NumPy.

        Raises:
            CheckpointError: the state is of another kind of optimiser or of other parameters; nothing has been
                changed then.
            OptionError: an option in it is out of its range; nothing has been changed then either.
        """
        groups = [self._loaded_group(group) for group in state_dict["param_groups"]]
        sizes = [len(group["params"]) for group in self.param_groups]
        given = [len(group["params"]) for group in groups]
        if sizes != given:
            raise CheckpointError(
                f"{self._name}.load_state_dict: groups of {given} parameters do not fit groups of {sizes}"
            )
        state = {int(index): entry for index, entry in state_dict["state"].items()}  # JSON makes keys strings
        entries = [
            [
                self._loaded_entry(state.get(index, {}), index, p, group)
                for index, p in zip(group["params"], own["params"], strict=True)
            ]
            for group, own in zip(groups, self.param_groups, strict=True)
        ]
        for number, (group, own) in enumerate(zip(groups, self.param_groups, strict=True)):
            own.update(group, params=own["params"])
            self._parts[number] = self._lay_out(own, entries[number])

    def _loaded_group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        missing = [option for option in self.defaults if option not in group]
        if missing:
            raise CheckpointError(
                f"{self._name}.load_state_dict: the state is of another optimiser; it has no {', '.join(missing)}"
            )
        loaded = {name: tuple(v) if name == "betas" else v for name, v in group.items()}
        self._check(loaded)
        return loaded

    def _loaded_entry(
        self, entry: Mapping[str, Any], index: int, p: Tensor, group: Mapping[str, Any]
    ) -> dict[str, Any]:
        arrays = {name: np.asarray(v) for name, v in entry.items() if name != "step" and v is not None}
        if not arrays:
            return {}
        problems = [f"{name} is unknown" for name in arrays if name not in self.state_names]
        problems += [f"{name} is missing" for name in self._buffers(group) if name not in arrays]
        problems += [
            f"{name} has shape {list(array.shape)}, expected {list(p.shape)}"
            for name, array in arrays.items()
            if array.shape != p.shape
        ]
        if problems:
            raise CheckpointError(f"{self._name}.load_state_dict: parameter {index}: {'; '.join(problems)}")
        return {"step": int(entry.get("step", 1)), **arrays}  # PyTorch's SGD keeps no count


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964; Nesterov's form after Sutskever et al. 2013).

    With d = g + weight_decay p::

        v = momentum v + (1 - dampening) d        (v = d in the first step)
        p = p - lr v                              (nesterov: p - lr (d + momentum v))

    Raises:
        OptionError: also for ``nesterov`` without momentum or with dampening.
    """

    state_names = ("momentum_buffer",)

    def __init__(
        self, params: Params, lr: float = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
             "nesterov": nesterov},
        )  # fmt: skip

    def _check(self, group: Mapping[str, Any]) -> None:
        super()._check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise OptionError(
                f"SGD: nesterov needs momentum above 0 and dampening 0, got momentum {group['momentum']!r} and "
                f"dampening {group['dampening']!r}"
            )

    def _buffers(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if group["momentum"] else {}

    def _update(self, kernel: Any, group: Mapping[str, Any], step: int, p: Any, g: Any, *state: Any) -> None:
        kernel.sgd(
            p, g, state[0] if state else None, float(group["lr"]), float(group["momentum"]),
            float(group["dampening"]), float(group["weight_decay"]), bool(group["nesterov"]), step == 1,
        )  # fmt: skip


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012, lecture 6.5); ``centered`` after Graves 2013 (arXiv:1308.0850).

    With d = g + weight_decay p::

        s = alpha s + (1 - alpha) d^2,   a = alpha a + (1 - alpha) d
        u = d / (sqrt(s) + eps)                   (centered: sqrt(s - a^2))
        v = momentum v + u,   p = p - lr v
    """

    state_names = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum,
             "centered": centered},
        )  # fmt: skip

    def _buffers(self, group: Mapping[str, Any]) -> dict[str, float]:
        expected = {"square_avg": True, "grad_avg": group["centered"], "momentum_buffer": group["momentum"]}
        return dict.fromkeys((name for name, needed in expected.items() if needed), 0.0)

    def _update(self, kernel: Any, group: Mapping[str, Any], step: int, p: Any, g: Any, *state: Any) -> None:
        kernel.rmsprop(
            p, g, state[0], state[1] if group["centered"] else None, state[-1] if group["momentum"] else None,
            float(group["lr"]), float(group["alpha"]), float(group["eps"]), float(group["weight_decay"]),
            float(group["momentum"]),
        )  # fmt: skip


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011).

    With d = g + weight_decay p, in a parameter's t-th step::

        s = s + d^2                               (s starts from initial_accumulator_value)
        p = p - lr / (1 + (t - 1) lr_decay) d / (sqrt(s) + eps)
    """

    state_names = ("sum",)

    def __init__(
        self, params: Params, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
             "initial_accumulator_value": initial_accumulator_value},
        )  # fmt: skip

    def _buffers(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"sum": group["initial_accumulator_value"]}

    def _update(self, kernel: Any, group: Mapping[str, Any], step: int, p: Any, g: Any, *state: Any) -> None:
        lr = group["lr"] / (1 + (step - 1) * group["lr_decay"])
        kernel.adagrad(p, g, state[0], float(lr), float(group["eps"]), float(group["weight_decay"]))


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980).

    With d = g + weight_decay p, in a parameter's t-th step::

        m = beta1 m + (1 - beta1) d,   v = beta2 v + (1 - beta2) d^2
        p = p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    """

    state_names = ("exp_avg", "exp_avg_sq")
    _decoupled = False

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _check(self, group: Mapping[str, Any]) -> None:
        super()._check(group)
        betas = group["betas"]
        if len(betas) != 2 or not all(isinstance(beta, _NUMBER) and 0 <= beta < 1 for beta in betas):
            raise OptionError(f"{self._name}: betas must be two numbers in [0, 1), got {betas!r}")

    def _buffers(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(self, kernel: Any, group: Mapping[str, Any], step: int, p: Any, g: Any, *state: Any) -> None:
        beta1, beta2 = group["betas"]
        kernel.adam(
            p, g, *state, step, float(group["lr"]), float(beta1), float(beta2), float(group["eps"]),
            float(group["weight_decay"]), self._decoupled,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

    As :class:`Adam` with d = g, after ``p = p - lr weight_decay p``.
    """

    _decoupled = True

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay)
