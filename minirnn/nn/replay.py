"""Small models without Python between the kernels: a call is recorded once, and repeated from then on.

In a small model's training step more than half of the time is Python code that finds out the same at every step. The
second call of a :class:`~minirnn.models.body.Model` with inputs of the same shapes and types is recorded by
:mod:`minirnn.kernels.recording`, its forward and its backward pass; those that follow repeat the calls of kernels and
of NumPy over the same memory, as one operation on the tape. The numbers are the same to the last bit.

A call is computed as ever where anything but the values of inputs and parameters differs from what was recorded: a
mode, an attribute of a module, the array a parameter lies in, what requires a gradient. So is one in which Python looks
at a value (the lengths of sequences, say), one with work for several threads or with much memory, one on another
device, and any of a model with modules or cells' code from outside this package, which nobody has checked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any, NamedTuple

import numpy as np

from minirnn import random
from minirnn.autograd import tape
from minirnn.autograd.tensor import Tensor
from minirnn.kernels import recording
from minirnn.kernels.contract import Array
from minirnn.kernels.precision import uses_bfloat16
from minirnn.kernels.recording import Recording, moved, plain, repeat_calls
from minirnn.nn.module import Module

MAX_PLANS = 8
"""So many shapes and modes a model knows."""
MAX_REFUSED = 4
"""After so many calls that could not be recorded, a model is not recorded any more."""
_MAX_ATTEMPTS = 3  # to record a call, where its backward pass never comes

_data, _needed, _training = attrgetter("data"), attrgetter("requires_grad"), attrgetter("training")


def _flatten(value: Any, leaves: list[Any]) -> Any:
    """All about a call's arguments but the values of arrays, hashable; arrays and tensors are added to ``leaves``.

    Raises:
        TypeError: there is something else among them, or an array without elements or not in one piece.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return kind, value
    if kind is tuple:
        return kind, *[_flatten(one, leaves) for one in value]
    array = _array(value)
    if type(array) is not np.ndarray or array.size == 0 or not array.flags.c_contiguous:
        raise TypeError
    leaves.append(value)
    return array.shape, array.dtype, (value.requires_grad if isinstance(value, Tensor) else None)


def _array(leaf: Any) -> Any:
    return leaf.data if isinstance(leaf, Tensor) else leaf


def _rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    """``value`` with the next of ``leaves`` in place of each array and tensor."""
    if isinstance(value, (Tensor, np.ndarray)):
        return next(leaves)
    return tuple([_rebuild(one, leaves) for one in value]) if type(value) is tuple else value


def _tensors(value: Any, found: list[Tensor]) -> bool:
    """Add the tensors in a model's output to ``found``; False where there is anything but tuples of them and None."""
    if isinstance(value, Tensor):
        found.append(value)
    elif type(value) is tuple:
        return all(_tensors(one, found) for one in value)
    return value is None or isinstance(value, (Tensor, tuple))


class _Pass(NamedTuple):
    """A call computed as ever, but for the gradients of leaves: they do not go to the leaves.

    Attributes:
        result, outputs: what the model returned, and the tensors in it; None where it has something else too.
        edges: the leaf that each gradient belongs to, in the order in which the tape would add them up.
        found: the backward pass appends the gradients.
    """

    result: Any
    outputs: list[Tensor] | None
    edges: list[Tensor]
    found: list[Sequence[Array | None]]

    def backward(self, given: Sequence[Array | None]) -> list[Array | None]:
        """The gradient of each of ``edges``, from those of the outputs."""
        pairs = zip(self.outputs or (), given, strict=True)
        tape.backward([(output, g) for output, g in pairs if g is not None and output.requires_grad])
        return list(self.found[0]) if self.found else [None] * len(self.edges)


class _Call(NamedTuple):
    """A method of a model and its arguments; ``leaves`` are the arrays and tensors among these."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Any]

    def ordinary(self) -> Any:
        return self.function(*self.args, **self.kwargs)


def _forward(call: _Call, arrays: Sequence[Any]) -> _Pass:
    """Make a call with ``arrays`` in place of its leaves."""
    inputs = [
        Tensor(array, leaf.requires_grad) if isinstance(leaf, Tensor) else array
        for leaf, array in zip(call.leaves, arrays, strict=True)
    ]
    given = {id(one): leaf for one, leaf in zip(inputs, call.leaves, strict=True)}
    values = iter(inputs)
    args = _rebuild(call.args, values)
    result = call.function(*args, **{name: _rebuild(value, values) for name, value in call.kwargs.items()})
    outputs: list[Tensor] = []
    if not _tensors(result, outputs) or any(o.requires_grad and o.node is None for o in outputs):
        return _Pass(result, None, [], [])
    nodes: dict[int, tape.Node] = {}
    pending = [output.node for output in outputs if output.node is not None]
    while pending:
        node = pending.pop()
        if node.serial not in nodes:
            nodes[node.serial] = node
            pending += [edge[0] for edge in node.edges if isinstance(edge, tuple)]
    found: list[Sequence[Array | None]] = []

    def gradients(*given: Array | None) -> tuple[None]:
        found.append(given)
        return (None,)

    edges: list[Tensor] = []
    end = tape.Node("leaves", "cpu", (None,), gradients, 0)
    end.serial = -1  # after all others
    for serial in sorted(nodes, reverse=True):
        node, redirected = nodes[serial], list[tape.Edge]()
        for edge in node.edges:
            if isinstance(edge, Tensor):
                edges.append(given.get(id(edge), edge))
                edge = end, len(edges) - 1
            redirected.append(edge)
        node.edges = tuple(redirected)
    end.num_outputs = len(edges)
    return _Pass(result, outputs, edges, found)


class _Use:
    """Holds a plan's memory from a forward pass until its backward pass is over, or will never come."""

    __slots__ = ("plan", "random_state")

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.random_state: Any = random.generator().bit_generator.state if plan.draws else None

    def __del__(self) -> None:
        self.plan.lock.release()


class _Plan:
    """What one call computes, over memory of its own.

    Attributes:
        lock: held while the memory is in use.
        ready, refused: whether the call can be repeated; or will not be recorded again.
        draws: whether it draws random numbers, as far as is known.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ready = self.refused = False
        self.draws, self.attempts = True, 0

    def record(self, owner: Replay, use: _Use, call: _Call) -> Any:
        """Compute a call as ever, and record it and its backward pass."""
        self.attempts += 1
        before = random.generator().bit_generator.state
        now = Recording()
        parameters = [now.own(array, existing=True) for array in owner.arrays]
        self.inputs = [_array(leaf).copy() for leaf in call.leaves]
        try:
            with owner.bound(parameters), now.on(), random.recorded_seeds() as seeds:
                done = _forward(call, [now.own(array) for array in self.inputs])
        except Exception:  # shows again, unless it comes from the recording
            done = None
        if done is None or done.outputs is None:
            random.generator().bit_generator.state = before
            return call.ordinary()
        if not random.repeats(before, seeds):
            now.refuse("random numbers that draw_seed did not draw")
        self.name, self.seeds, self.draws = owner.name, seeds, bool(seeds)
        self.result = _rebuild(done.result, repeat(np.empty(0)))
        self.outputs = [plain(output.data) for output in done.outputs]
        self.needed = [output.requires_grad for output in done.outputs]
        numbers = {id(leaf): number for number, leaf in enumerate(call.leaves)}
        self.edges = [numbers.get(id(edge), edge) for edge in done.edges]
        now.check(self.outputs)
        self.forward, now.calls = now.calls, []
        if not any(self.needed):
            self._finish(owner, now, [], [])
        use.random_state = before
        return self._results(partial(self._record_backward, use, call, owner, now, parameters, done), call)

    def _record_backward(
        self,
        use: _Use,
        call: _Call,
        owner: Replay,
        now: Recording,
        parameters: list[Any],
        done: _Pass,
        *given: Array | None,
    ) -> list[Array | None]:
        if now.refused or not owner.intact():
            owner.refuse(self)
            return [plain(g) for g in done.backward(given)]
        own = [None if g is None else np.array(g) for g in given]  # of NumPy's numbers too
        try:
            with owner.bound(parameters), now.on():
                computed = [plain(g) for g in done.backward([None if g is None else now.own(g) for g in own])]
        except Exception:
            owner.refuse(self)
            return self._again(use, call, given)
        now.check([g for g in computed if g is not None])
        self._finish(owner, now, own, computed)
        return [None if g is None else g.copy() for g in computed]

    def _finish(self, owner: Replay, now: Recording, given: list[Any], computed: list[Any]) -> None:
        self.given, self.computed, self.backward = given, computed, now.calls
        self.slots = self._own_slots(now)
        self.direct = moved(self.backward, [(computed[number], slot) for number, _, slot in self.slots])
        self.places = now.places([*self.forward, *self.backward, *self.direct], self.seeds)
        self.ready = not now.refused
        if now.refused:
            owner.refuse(self)

    def repeat(self, use: _Use, call: _Call) -> Any:
        """Compute a call from its recording."""
        for own, leaf in zip(self.inputs, call.leaves, strict=True):
            own[...] = _array(leaf)
        if self.seeds:
            drawn = [random.draw_seed() for _ in self.seeds]
            for arguments, position, number in self.places:
                arguments[position] = type(arguments[position])(drawn[number])
        with np.errstate(all="ignore"):  # operations say for themselves whether NumPy may warn; here none does
            try:
                repeat_calls(self.forward)
            except Exception:  # another outcome of a check, or an error, which shows again
                if use.random_state is not None:
                    random.generator().bit_generator.state = use.random_state
                return call.ordinary()
        return self._results(partial(self._repeat_backward, use, call), call)

    def _repeat_backward(self, use: _Use, call: _Call, *given: Array | None) -> list[Array | None]:
        for own, g in zip(self.given, given, strict=True):
            if own is not None and g is not None and g.dtype == own.dtype:
                own[...] = g
            elif own is not g:
                return self._again(use, call, given)
        direct = all(leaf.grad is None and leaf.grad_slot is slot for _, leaf, slot in self.slots)
        try:
            repeat_calls(self.direct if direct else self.backward)
        except Exception:
            return self._again(use, call, given)
        if not direct:
            return self.computed
        computed = list(self.computed)
        for number, leaf, slot in self.slots:
            leaf.grad, computed[number] = Tensor(slot), None
        return computed

    def _own_slots(self, now: Recording) -> list[tuple[int, Tensor, Any]]:
        """Gradients that can be computed where the optimizer wants them: their number, leaf and slot."""
        found = []
        for number, (leaf, gradient) in enumerate(zip(self.edges, self.computed, strict=False)):
            if isinstance(leaf, Tensor) and leaf.grad_slot is not None and gradient is not None:
                slot: Any = leaf.grad_slot
                others = self.computed[:number] + self.computed[number + 1 :]
                alone = not any(other is not None and np.may_share_memory(gradient, other) for other in others)
                alike = (gradient.shape, gradient.dtype) == (slot.shape, slot.dtype) and slot.flags.c_contiguous
                once = sum(leaf is other for other in self.edges) == 1
                if alone and alike and once and now.is_whole(gradient):
                    found.append((number, leaf, slot))
        return found

    def _again(self, use: _Use, call: _Call, given: Sequence[Array | None]) -> list[Array | None]:
        """The gradients computed as ever, the forward pass first, from the same inputs and random numbers."""
        generator = random.generator().bit_generator
        state = generator.state
        if use.random_state is not None:
            generator.state = use.random_state
        with tape.enable_grad():
            done = _forward(call, [array.copy() for array in self.inputs])
        generator.state = state
        return done.backward(given)

    def _results(self, gradients: tape.Gradients, call: _Call) -> Any:
        """The outputs as the model returns them, copied from the plan's memory, and on the tape."""
        edges = [call.leaves[edge] if isinstance(edge, int) else edge for edge in self.edges]
        outputs = tape.record_many(self.name, edges, [array.copy("K") for array in self.outputs], gradients, "cpu")
        for output, needed in zip(outputs, self.needed, strict=True):
            if not needed:
                output.requires_grad, output.node = False, None
        return _rebuild(self.result, iter(outputs))


class Replay:
    """The recordings of one model, which calls it in place of its ``forward``."""

    def __init__(self) -> None:
        self._changes = -1
        self._usable = False

    def __reduce__(self) -> Any:  # copies of a model start without
        return Replay, ()

    def __call__(self, model: Module, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``function``, a method of ``model``, returns for these arguments."""
        call = _Call(function, args, kwargs, [])
        if (plan := self._plan(model, call)) is not None and plan.lock.acquire(blocking=False):
            use = _Use(plan)
            return plan.repeat(use, call) if plan.ready else plan.record(self, use, call)
        return call.ordinary()

    def _plan(self, model: Module, call: _Call) -> _Plan | None:
        """The plan of a call, None where it is to be computed as ever."""
        recorded, anomaly = tape.mode()
        if anomaly or recording.is_on():
            return None
        if not self.intact():
            self._inspect(model)
        if not self._usable or self._refused == MAX_REFUSED:
            return None
        modes = map(_training, self._modules), map(_needed, self._parameters)
        flags = model.training, *chain(*modes), recorded, uses_bfloat16(np.dtype(np.float32)), random.shard()
        try:
            values = [_flatten(one, call.leaves) for one in (*call.args, *call.kwargs.values())]
            key = call.function.__name__, flags, tuple(call.kwargs), *values
        except TypeError:
            return None
        plan = self._plans.pop(key, None)
        seen = plan is not None
        plan = self._plans[key] = plan or _Plan()  # the last used is the last
        if len(self._plans) > MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        if not plan.ready and plan.attempts == _MAX_ATTEMPTS:
            self.refuse(plan)
        return plan if seen and not plan.refused else None

    def _inspect(self, model: Module) -> None:
        """Begin again with a model as it is now."""
        modules, self.name = list(model.modules()), type(model).__name__
        self._changes, self._modules, self._parameters = Module._changes, modules[1:], list(model.parameters())
        self.arrays: list[Any] = [p.data for p in self._parameters]
        package = __name__.partition(".")[0]
        self._usable = all(type(m).__module__.partition(".")[0] == package for m in modules)
        self._usable &= not any("forward" in vars(m) for m in modules)
        self._usable &= all(type(array) is np.ndarray and array.flags.c_contiguous for array in self.arrays)
        self._plans: dict[Any, _Plan] = {}
        self._refused = 0

    def intact(self) -> bool:
        """Whether the model is as it was when its recordings began, but for the values of its parameters."""
        return self._changes == Module._changes and all(map(is_, map(_data, self._parameters), self.arrays))

    def refuse(self, plan: _Plan) -> None:
        """Never record this call again."""
        if not plan.refused:
            plan.refused = True
            self._refused += 1

    @contextmanager
    def bound(self, arrays: Sequence[Any]) -> Iterator[None]:
        """With these arrays in place of those of the parameters."""
        for parameter, array in zip(self._parameters, arrays, strict=True):
            parameter.data = array
        try:
            yield
        finally:
            for parameter, array, own in zip(self._parameters, arrays, self.arrays, strict=True):
                if parameter.data is array:
                    parameter.data = own
