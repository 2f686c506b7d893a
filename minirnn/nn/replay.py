"""Small models without Python between the kernels: a call is recorded once, and repeated from then on.

In a small model's training step more than half of the time is Python code that finds out the same at every step. The
second call of a :class:`~minirnn.models.body.Model` with inputs of the same shapes and types is recorded by
:mod:`minirnn.kernels.recording`, its forward and its backward pass; those that follow repeat the calls of kernels and
of NumPy over the same memory, as one operation on the tape. The numbers are the same to the last bit.

A call is computed as ever where anything but the values of inputs and parameters differs from what was recorded: a
mode, an attribute of a module, the array a parameter lies in, what requires a gradient or has one. So is one in which
Python looks at a value (the lengths of sequences, say), one with work for several threads or with much memory, one on
another device, and any of a large model (its gradients would be held twice while it is recorded in vain) or of one with
modules or cells' code from outside this package, which nobody has checked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from operator import attrgetter, is_
from typing import Any

import numpy as np

from minirnn import random
from minirnn.autograd import tape
from minirnn.autograd.tensor import Tensor
from minirnn.kernels import recording
from minirnn.kernels.contract import Array
from minirnn.kernels.precision import uses_bfloat16
from minirnn.kernels.recording import Recording, plain, repeat_calls
from minirnn.nn.module import Module

MAX_PLANS = 8
"""So many shapes and modes a model knows."""
MAX_FAILURES = 6
"""After so many recordings that cannot be repeated, or have no backward pass yet, a model is not recorded any more."""
_MAX_RECORDINGS = 2  # of a call

_data, _needed, _training = attrgetter("data"), attrgetter("requires_grad"), attrgetter("training")


def _flatten(value: Any, leaves: list[Any]) -> Any:
    """All about arguments or results but the values of arrays, hashable; arrays and tensors are added to ``leaves``.

    Raises:
        TypeError: there is something else among them than these, numbers, texts, None and tuples.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return kind, value
    if kind is tuple:
        return kind, *[_flatten(one, leaves) for one in value]
    array = _array(value)
    if not isinstance(array, np.ndarray):
        raise TypeError
    leaves.append(value)
    return array.shape, array.dtype, (value.requires_grad if isinstance(value, Tensor) else None)


def _rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    """``value`` with the next of ``leaves`` in place of each array and tensor."""
    if isinstance(value, (Tensor, np.ndarray)):
        return next(leaves)
    return tuple([_rebuild(one, leaves) for one in value]) if type(value) is tuple else value


def _array(leaf: Any) -> Any:
    return leaf.data if isinstance(leaf, Tensor) else leaf


def _is_simple(array: Any) -> bool:
    return type(array) is np.ndarray and array.size > 0 and array.flags.c_contiguous


class _Call:
    """A method of a model and its arguments, whose arrays and tensors are the ``leaves``.

    It holds the memory of its ``plan`` until its backward pass is over, or will never come.
    """

    __slots__ = ("function", "args", "kwargs", "leaves", "plan", "random_state", "shard")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs, self.leaves = function, args, kwargs, list[Any]()
        self.plan: _Plan | None = None
        self.random_state: Any = None  # before it, where it draws random numbers
        self.shard = random.shard()  # whose masks it has, in a backward pass too

    def __del__(self) -> None:
        if self.plan is not None:
            self.plan.lock.release()

    def ordinary(self) -> Any:
        """The call computed as ever, with the random numbers that it would have had at first."""
        self.rewind()
        return self.function(*self.args, **self.kwargs)

    def rewind(self) -> None:
        if self.random_state is not None:
            random.generator().bit_generator.state = self.random_state


class _Pass:
    """A call computed as ever with other ``arrays``, but for the gradients of leaves: they do not go to the leaves.

    Attributes:
        result, outputs: what the model returned, and the tensors in it.
        edges: the leaf that each gradient belongs to, in the order in which the tape would add them up.

    Raises:
        TypeError: the result is not made of tensors that were computed, or there is something else in it.
    """

    def __init__(self, call: _Call, arrays: Sequence[Any]) -> None:
        pairs = list(zip(call.leaves, arrays, strict=True))
        inputs = [Tensor(a, leaf.requires_grad) if isinstance(leaf, Tensor) else a for leaf, a in pairs]
        values = iter(inputs)
        args = _rebuild(call.args, values)
        kwargs = {name: _rebuild(value, values) for name, value in call.kwargs.items()}
        self.result, self.outputs = call.function(*args, **kwargs), list[Tensor]()
        _flatten(self.result, self.outputs)
        if any(not isinstance(o, Tensor) or (o.requires_grad and o.node is None) for o in self.outputs):
            raise TypeError
        self.edges: list[Tensor] = []
        self._found: list[Sequence[Array | None]] = []
        self._redirect({id(one): leaf for one, leaf in zip(inputs, call.leaves, strict=True)})

    def _redirect(self, given: dict[int, Tensor]) -> None:
        """Let one last node take the gradients of all leaves, those of ``given`` in place of what stands for them."""
        nodes: dict[int, tape.Node] = {}
        pending = [output.node for output in self.outputs]
        while pending:
            node = pending.pop()
            if node is not None and node.serial not in nodes:
                nodes[node.serial] = node
                pending += [edge[0] for edge in node.edges if isinstance(edge, tuple)]

        def take(*gradients: Array | None) -> tuple[None]:
            self._found.append(gradients)
            return (None,)

        last = tape.Node("leaves", "cpu", (None,), take, 0)
        last.serial = -1
        for serial in sorted(nodes, reverse=True):
            edges = list(nodes[serial].edges)
            for number, edge in enumerate(edges):
                if isinstance(edge, Tensor):
                    edges[number] = last, len(self.edges)
                    self.edges.append(given.get(id(edge), edge))
            nodes[serial].edges = tuple(edges)
        last.num_outputs = len(self.edges)

    def backward(self, given: Sequence[Array | None]) -> list[Array | None]:
        """The gradient of each of ``edges``, from those of the outputs."""
        pairs = zip(self.outputs, given, strict=True)
        tape.backward([(output, g) for output, g in pairs if g is not None and output.requires_grad])
        return [plain(g) for g in self._found[0]] if self._found else [None] * len(self.edges)


class _Seeds:
    """The seeds that a recorded call has drawn, and where they are arguments of what it called."""

    def __init__(self, drawn: Sequence[int], calls: Sequence[recording.Call]) -> None:
        self.count = len(drawn)
        self._places = [  # arguments, the position of a seed among them, and its number
            (arguments, position, drawn.index(int(value)))
            for _, arguments, _ in calls
            for position, value in enumerate(arguments)
            if isinstance(value, (int, np.integer)) and int(value) in drawn
        ]
        self.complete = {number for *_, number in self._places} == set(range(self.count))

    def draw(self) -> None:
        """Draw others in their place."""
        drawn = [random.draw_seed() for _ in range(self.count)]
        for arguments, position, number in self._places:
            arguments[position] = type(arguments[position])(drawn[number])


class _Plan:
    """What one call computes, over memory of its own.

    Attributes:
        lock: held while the memory is in use.
        ready, recordings: whether the call can be repeated; how often it has been recorded.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ready, self.recordings = False, 0

    def record(self, owner: Replay, call: _Call) -> Any:
        """Compute a call as ever, and record it and its backward pass."""
        self.recordings += 1
        owner.failures += 1  # unless it comes to an end
        self.inputs = [_array(leaf).copy() for leaf in call.leaves]
        call.random_state, now = random.generator().bit_generator.state, Recording()
        try:
            with owner.recorded(now), random.recorded_seeds() as drawn:
                done = _Pass(call, [now.own(array) for array in self.inputs])
        except Exception:  # shows again, unless it comes from the recording
            return call.ordinary()
        if not random.repeats(call.random_state, drawn):
            now.refuse("random numbers that draw_seed did not draw")
        self.name, self.result = owner.name, _rebuild(done.result, repeat(np.empty(0)))
        self.outputs = [plain(output.data) for output in done.outputs]
        self.needed = [output.requires_grad for output in done.outputs]
        numbers = {id(leaf): number for number, leaf in enumerate(call.leaves)}
        self.edges = [numbers.get(id(edge), edge) for edge in done.edges]
        now.check(*self.outputs)
        self.forward, now.calls = now.calls, []
        if not any(self.needed):
            self._finish(owner, now, drawn, [], [])
        return self._results(call, partial(self._record_backward, owner, now, drawn, done, call))

    def _record_backward(
        self, owner: Replay, now: Recording, drawn: list[int], done: _Pass, call: _Call, *given: Array | None
    ) -> list[Array | None]:
        if not owner.intact():
            now.refuse("parameters in other arrays")
        own = [None if g is None else np.array(g) for g in given]  # of NumPy's numbers too
        try:
            with owner.recorded(now):
                computed = done.backward([None if g is None else now.own(g) for g in own])
        except Exception:
            return self._again(call, given)
        now.check(*[plain(g) for g in computed if g is not None])
        self._finish(owner, now, drawn, own, computed)
        return [None if g is None else g.copy() for g in computed]

    def _finish(
        self, owner: Replay, now: Recording, drawn: list[int], given: list[Any], computed: list[Array | None]
    ) -> None:
        self.given, self.computed, self.backward = given, computed.copy(), now.calls
        self.slots: list[tuple[Tensor, Any]] = []  # leaves whose gradients are computed where the optimizer reads them
        begun = set[int]()  # leaves that have a gradient, to which others are added
        for number, (leaf, gradient) in enumerate(zip(self.edges, computed, strict=True)):
            if isinstance(leaf, Tensor) and leaf.grad_slot is not None and gradient is not None:
                slot: Any = leaf.grad_slot
                if recording.address(gradient) == recording.address(slot):
                    self.computed[number] = slot
                    self.slots.append((leaf, slot))
                    if id(leaf) in begun:
                        now.refuse("a gradient that another one would overwrite")
                begun.add(id(leaf))
        self.seeds = _Seeds(drawn, [*self.forward, *self.backward])
        if not now.refused and self.seeds.complete:
            self.ready = True
            owner.failures -= 1

    def repeat(self, call: _Call) -> Any:
        """Compute a call from its recording."""
        for own, leaf in zip(self.inputs, call.leaves, strict=True):
            own[...] = _array(leaf)
        if self.seeds.count:
            call.random_state = random.generator().bit_generator.state
            self.seeds.draw()
        try:
            with np.errstate(all="ignore"):  # operations say for themselves whether NumPy may warn; here none does
                repeat_calls(self.forward)
        except Exception:  # another outcome of a check, or an error, which shows again
            self.ready = False
            return call.ordinary()
        return self._results(call, partial(self._repeat_backward, call))

    def _repeat_backward(self, call: _Call, *given: Array | None) -> list[Array | None]:
        for own, g in zip(self.given, given, strict=True):
            if own is not None and g is not None and g.dtype == own.dtype:
                own[...] = g
            elif own is not g:
                return self._again(call, given)
        if any(leaf.grad is not None or leaf.grad_slot is not slot for leaf, slot in self.slots):
            return self._again(call, given)
        try:
            repeat_calls(self.backward)
        except Exception:
            return self._again(call, given)
        return self.computed

    def _again(self, call: _Call, given: Sequence[Array | None]) -> list[Array | None]:
        """The gradients computed as ever, the forward pass first, from the same inputs and random numbers."""
        self.ready = False
        generator = random.generator().bit_generator
        state = generator.state
        call.rewind()
        with tape.enable_grad(), random.drawing_for(call.shard):
            done = _Pass(call, [array.copy() for array in self.inputs])
        generator.state = state
        return done.backward(given)

    def _results(self, call: _Call, gradients: tape.Gradients) -> Any:
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
        call = _Call(function, args, kwargs)
        plan = self._plan(model, call)
        if plan is None or not plan.lock.acquire(blocking=False):
            return call.ordinary()
        call.plan = plan
        return plan.repeat(call) if plan.ready else plan.record(self, call)

    def _plan(self, model: Module, call: _Call) -> _Plan | None:
        """The plan of a call, None where it is to be computed as ever."""
        recorded, anomaly = tape.mode()
        if anomaly or recording.is_on():
            return None
        if not self.intact():
            self._inspect(model)
        if not self._usable:
            return None
        try:
            values = [_flatten(one, call.leaves) for one in (*call.args, *call.kwargs.values())]
        except TypeError:
            return None
        if not all(map(_is_simple, map(_array, call.leaves))):
            return None
        flags = model.training, recorded, uses_bfloat16(np.dtype(np.float32)), *map(_training, self._modules)
        leaves = [(p.requires_grad, p.grad is None) for p in self._parameters]
        key = call.function.__name__, random.shard(), flags, *leaves, tuple(call.kwargs), *values
        plan = self._plans.pop(key, None)
        self._plans[key] = found = plan or _Plan()  # the last used is the last
        if len(self._plans) > MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        if found.ready or (plan and found.recordings < _MAX_RECORDINGS and self.failures < MAX_FAILURES):
            return found
        return None

    def _inspect(self, model: Module) -> None:
        """Begin again with a model as it is now."""
        modules, self.name = list(model.modules()), type(model).__name__
        self._changes, self._modules, self._parameters = Module._changes, modules[1:], list(model.parameters())
        self._arrays: list[Any] = [p.data for p in self._parameters]
        package = __name__.partition(".")[0]
        self._usable = all(map(_is_simple, self._arrays)) and not any("forward" in vars(m) for m in modules)
        self._usable &= all(type(m).__module__.partition(".")[0] == package for m in modules)
        self._usable &= sum(array.nbytes for array in self._arrays) <= recording.MAX_BYTES
        self._plans: dict[Any, _Plan] = {}
        self.failures = 0

    def intact(self) -> bool:
        """Whether the model is as it was when its recordings began, but for the values of its parameters."""
        return self._changes == Module._changes and all(map(is_, map(_data, self._parameters), self._arrays))

    @contextmanager
    def recorded(self, now: Recording) -> Iterator[None]:
        """Record what is computed inside, with the parameters traced."""
        before = list(map(_data, self._parameters))
        for parameter in self._parameters:
            parameter.data = now.own(parameter.data, existing=True)
        try:
            with now.on():
                yield
        finally:
            for parameter, array in zip(self._parameters, before, strict=True):
                parameter.data = array
