"""The base of all optimisers: parameter groups, steps over flat buffers, and a state that can be saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, TypeVar

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor
from minirnn.errors import CheckpointError, OptionError, ShapeError
from minirnn.kernels.contract import Array, Kernels
from minirnn.optim.flat import FlatParameters
from minirnn.validation import check_float

ParamGroup = dict[str, Any]
"""``"params"``, a list of tensors, and the optimiser's options by name: ``"lr"``, ``"weight_decay"`` and so on."""

Params = Iterable[Tensor] | Iterable[ParamGroup]
"""Parameters, or groups ``{"params": [...], "lr": ...}`` whose options override the optimiser's."""

T = TypeVar("T")

_NOT_NEGATIVE = ("lr", "momentum", "weight_decay", "alpha", "eps", "lr_decay", "initial_accumulator_value")


class OptimizerState(TypedDict):
    """The state of an optimiser in PyTorch's form: by the index of a parameter its step count and its arrays, and the
    groups, with indices in place of parameters."""

    state: dict[int, dict[str, Any]]
    param_groups: list[ParamGroup]


class _Part:
    """Parameters of one group (by position) that share dtype and device: layout, step counts and flat state arrays."""

    def __init__(self, indices: Sequence[int], params: Sequence[Tensor], steps: list[int]) -> None:
        self.indices, self.flat, self.steps = indices, FlatParameters(params), steps
        self.buffers: dict[str, Array] = {}

    def buffer(self, name: str, fill: float) -> Array:
        """The flat state array ``name``, made at its first use."""
        if name not in self.buffers:
            data = self.flat.data
            self.buffers[name] = kernels.on(self.flat.device).zeros(data.shape, data.dtype)
            self.buffers[name][...] = fill
        return self.buffers[name]


class Optimizer:
    """Base of all optimisers.

    A subclass has its options in ``__init__``, names its state (:attr:`buffers`) and updates flat parameters by their
    flat gradient (:meth:`_update`). A parameter without a gradient is skipped, and its step count stands still.
    ``param_groups`` may be changed between steps, which is how learning-rate schedules work.

    Args:
        params, defaults: parameters, or group dicts with PyTorch's keys; the options of groups without their own.

    Raises:
        OptionError: there are no parameters, one is not a leaf tensor of floats or comes twice, or an option is out of
            its range.
    """

    buffers: ClassVar[dict[str, str | None]] = {}
    """The state arrays of a parameter by PyTorch's names, each with the option that turns it on (None: always)."""

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[ParamGroup] = []
        self._parts: list[list[_Part]] = []
        entries = self._as_list(params)
        if not entries:
            raise OptionError(f"{self._name}: got an empty list of parameters")
        for group in entries if isinstance(entries[0], dict) else [{"params": entries}]:
            self.add_param_group(group)

    def _check(self, group: Mapping[str, Any]) -> None:
        """Raise :class:`OptionError` if an option of a group is out of its range."""
        for option in _NOT_NEGATIVE:
            if check_float(f"{self._name}: {option}", group.get(option, 0)) == math.inf:
                raise OptionError(f"{self._name}: {option}: expected a finite number, got inf")

    def _update(
        self, K: Kernels, group: Mapping[str, Any], step: int, p: Array, g: Array, state: Mapping[str, Array]
    ) -> None:
        """Update flat parameters ``p`` by their gradient ``g`` in place, with the kernels ``K`` of their device.

        ``group`` has the options, numbers as Python floats; ``step`` counts the steps of these parameters, from 1;
        ``state`` has the arrays of :attr:`buffers` that are turned on.
        """
        raise NotImplementedError

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _as_list(self, params: Any) -> list[Any]:
        if isinstance(params, Tensor | set | Mapping) or not isinstance(params, Iterable):
            kind = type(params).__name__
            raise OptionError(f"{self._name}: expected an ordered iterable of tensors or of group dicts, got a {kind}")
        return list(params)

    def add_param_group(self, group: ParamGroup) -> None:
        """Train more parameters; ``group`` is ``{"params": tensor or tensors, option: value, ...}``."""
        if not isinstance(group, dict) or "params" not in group:
            raise OptionError(f"{self._name}: expected a group to be a dict with 'params', got {group!r}")
        params = [group["params"]] if isinstance(group["params"], Tensor) else self._as_list(group["params"])
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
                problem = f"parameter {number} {problem}"
                raise OptionError(f"{self._name}: expected distinct leaf tensors of floats; {problem}")
            taken.add(id(p))
        group = {**self.defaults, **group, "params": params}
        self._check(group)
        self.param_groups.append(group)
        self._parts.append(self._lay_out(group, [{}] * len(params)))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or with ``set_to_none=False`` fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.data[...] = 0

    def step(self, closure: Callable[[], T] | None = None) -> T | None:
        """Update every parameter that has a gradient; return what ``closure``, which computes the loss and its
        gradients again, returned.

        Raises:
            GradientError: an assigned gradient does not have its parameter's shape.
            ShapeError: a parameter's shape has changed. Nothing has been updated after either.
        """
        loss = None if closure is None else closure()
        groups = [(group, self._current_parts(number)) for number, group in enumerate(self.param_groups)]
        work = [(group, part, part.flat.runs(part.steps)) for group, parts in groups for part in parts]
        for group, part, runs in work:
            flat, options = part.flat, _as_floats(group)
            state = {name: part.buffer(name, fill) for name, fill in self._initial_state(group).items()}
            for first, last, step in runs:
                span = flat.span(first, last)
                if span.start < span.stop:
                    p, g, here = flat.data[span], flat.gradient(first, last), {n: a[span] for n, a in state.items()}
                    self._update(kernels.on(flat.device), options, step + 1, p, g, here)
                if state:  # an update that leaves no state behind is not counted
                    part.steps[first:last] = [step + 1] * (last - first)
        return loss

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        """The state arrays that a group needs, with the value they start from."""
        fill = group.get("initial_accumulator_value", 0.0)
        return {name: fill for name, option in self.buffers.items() if option is None or group[option]}

    def flat_arrays(self) -> list[tuple[Array, str]]:
        """The flat arrays that hold the parameters and the state, each with its device."""
        parts = [part for number in range(len(self.param_groups)) for part in self._current_parts(number)]
        return [(array, part.flat.device) for part in parts for array in (part.flat.data, *part.buffers.values())]

    def _current_parts(self, number: int) -> list[_Part]:
        """The parts of a group, laid out again if one of its parameters was bound to another array."""
        if all(part.flat.intact() for part in self._parts[number]):
            return self._parts[number]
        for part in self._parts[number]:
            for p, shape in zip(part.flat.params, part.flat.shapes, strict=True):
                if p.shape != shape:
                    change = f"a parameter had shape {list(shape)}, now it has {list(p.shape)}"
                    raise ShapeError(f"{self._name}: {change}; make a new optimiser")
        self._parts[number] = self._lay_out(self.param_groups[number], self._entries(number))
        return self._parts[number]

    def _lay_out(self, group: ParamGroup, entries: Sequence[Mapping[str, Any]]) -> list[_Part]:
        """Parts for a group whose parameters have the state ``entries``."""
        params, fills = group["params"], self._initial_state(group)
        kinds: dict[tuple[str, str], list[int]] = {}
        for i, p in enumerate(params):
            kinds.setdefault((p.dtype.name, p.device), []).append(i)
        parts = []
        for indices in kinds.values():
            part = _Part(indices, [params[i] for i in indices], [entries[i].get("step", 0) for i in indices])
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

    def state_dict(self) -> OptimizerState:
        """Everything needed to continue: ``{"state": {index: {...}}, "param_groups": [...]}`` as in PyTorch.

        Arrays are copies in NumPy; everything else is numbers and what the groups hold.
        """
        entries = [self._entries(number) for number in range(len(self.param_groups))]
        state, groups, count = dict[int, dict[str, Any]](), list[ParamGroup](), 0
        for group, own in zip(self.param_groups, entries, strict=True):
            groups.append({**group, "params": list(range(count, count + len(own)))})
            for index, entry in enumerate(own, count):
                if entry:
                    state[index] = {name: np.array(v) if name != "step" else v for name, v in entry.items()}
            count += len(own)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: OptimizerState | Mapping[str, Any]) -> None:
        """Continue bit for bit from ``state_dict``, ours or PyTorch's, with its arrays as NumPy.

        Raises:
            CheckpointError: the state is of another kind of optimiser or of other parameters, or was made with an
                option of PyTorch's that minirnn does not have.
            OptionError: an option in it is out of its range. Nothing has been changed after either.
        """
        where = f"{self._name}.load_state_dict"
        groups = [self._loaded_group(where, group) for group in state_dict["param_groups"]]
        sizes, given = ([len(group["params"]) for group in some] for some in (self.param_groups, groups))
        if sizes != given:
            raise CheckpointError(f"{where}: groups of {given} parameters do not fit groups of {sizes}")
        state = {int(index): entry for index, entry in state_dict["state"].items()}  # JSON makes keys strings
        if unknown := state.keys() - {index for group in groups for index in group["params"]}:
            raise CheckpointError(f"{where}: there is a state for parameter {min(unknown)}, which is in no group")
        entries = []
        for group, own in zip(groups, self.param_groups, strict=True):
            pairs = zip(group["params"], own["params"], strict=True)
            places = ((f"{where}: parameter {index}", state.get(index, {}), p) for index, p in pairs)
            entries.append([self._loaded_entry(*place, group) for place in places])
        for group, own in zip(groups, self.param_groups, strict=True):
            own.update(group, params=own["params"])
        self._parts = [self._lay_out(own, loaded) for own, loaded in zip(self.param_groups, entries, strict=True)]

    def _loaded_group(self, where: str, group: Mapping[str, Any]) -> ParamGroup:
        if missing := [option for option in self.defaults if option not in group]:
            raise CheckpointError(f"{where}: the state is of another optimiser; it has no {', '.join(missing)}")
        for option in ("amsgrad", "maximize"):
            if group.get(option):
                raise CheckpointError(f"{where}: the state was made with {option}, which {self._name} does not have")
        loaded = {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        self._check(loaded)
        return loaded

    def _loaded_entry(self, where: str, entry: Mapping[str, Any], p: Tensor, group: ParamGroup) -> dict[str, Any]:
        arrays = {name: np.asarray(v) for name, v in entry.items() if name != "step" and v is not None}
        if not arrays:
            return {}
        problems = [f"{name} is unknown" for name in arrays if name not in self.buffers]
        problems += [f"{name} is missing" for name in self._initial_state(group) if name not in arrays]
        shapes = {name: list(array.shape) for name, array in arrays.items() if array.shape != p.shape}
        problems += [f"{name} has shape {shape}, expected {list(p.shape)}" for name, shape in shapes.items()]
        if problems:
            raise CheckpointError(f"{where}: {'; '.join(problems)}")
        return {"step": int(entry.get("step", 1)), **arrays}  # PyTorch's SGD keeps no count


def _as_floats(group: ParamGroup) -> ParamGroup:
    """The options of a group, numbers as Python floats: a kernel would be compiled again for each other type."""

    def convert(value: Any) -> Any:
        if type(value) in (float, bool):
            return value
        if isinstance(value, (tuple, list)):
            return tuple(map(convert, value))
        return float(value) if isinstance(value, (int, float, np.number)) else value

    return {name: convert(value) for name, value in group.items() if name != "params"}
