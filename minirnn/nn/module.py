"""Module, Parameter and containers of modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.tape import no_grad
from minirnn.autograd.tensor import DType, Tensor, as_dtype, tensor
from minirnn.errors import CheckpointError, DTypeError
from minirnn.kernels.contract import Array


class Parameter(Tensor):
    """A leaf tensor that is a parameter of the module it is assigned to.

    Args:
        data, device: an array, taken as it is, or a tensor; "cpu" or "cuda", where it is.
        requires_grad: if False, the parameter is frozen: it gets no gradient.
    """

    __slots__ = ()

    def __init__(self, data: Tensor | Array, requires_grad: bool = True, device: str = "cpu") -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad, device)


class IncompatibleKeys(NamedTuple):
    """What :meth:`Module.load_state_dict` returns: parameters that were not given, and names of no parameter."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of all layers and models: parameters, submodules, and a :meth:`forward` that calls compute.

    Parameters and modules assigned as attributes are registered under the attribute's name, in the order of their
    assignment; a parameter of a submodule has a dotted name, as in PyTorch. ``training`` is False in evaluation mode.

    Modules cast NumPy arrays and lists to the type of their parameters, as :func:`minirnn.tensor` would; a Tensor of
    another type is an error. Tokens stay integers.

    >>> import minirnn as mr
    >>> class Net(mr.nn.Module):
    ...     def __init__(self):
    ...         self.hidden, self.out = mr.nn.Linear(3, 8), mr.nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.out(self.hidden(x).tanh())
    >>> net = Net()
    >>> net(mr.zeros(5, 3)).shape
    (5, 2)
    >>> [name for name, _ in net.named_parameters()]
    ['hidden.weight', 'hidden.bias', 'out.weight', 'out.bias']
    """

    training: bool = True
    _changes: ClassVar = 0
    """Counts assignments of attributes other than ``training``, of all modules."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name != "training":
            Module._changes += 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's output; every subclass defines its own."""
        raise TypeError(f"{type(self).__name__} has no forward(); define it in the subclass to call the module")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over immediate submodules, with their attribute names."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """Iterate over this module and all modules in it, each once."""
        return iter({id(module): module for _, module in self._all_modules()}.values())

    def _all_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """The prefix of the names of each module's parameters, and the module; a shared one several times."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child._all_modules(f"{prefix}{name}.")

    def named_parameters(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Iterate over dotted names and parameters; ``prefix`` and a dot precede every name.

        Each parameter comes once; with ``remove_duplicate=False`` a shared one comes with each of its names.
        """
        names: dict[Any, tuple[str, Parameter]] = {}
        for path, module in self._all_modules(prefix + "." * bool(prefix)):
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    name = path + name
                    names.setdefault(id(value) if remove_duplicate else name, (name, value))
        return iter(names.values())

    def parameters(self) -> Iterator[Parameter]:
        """Iterate over all parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """Return the number of elements of all parameters, frozen ones included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter as a NumPy array, by its dotted name."""
        return {name: parameter.numpy().copy() for name, parameter in self.named_parameters(remove_duplicate=False)}

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy parameters from a state dict into this module.

        Args:
            state: dotted names, and anything ``np.asarray`` takes: also a state dict of PyTorch's.
            strict: if True, the names must be exactly those of :meth:`state_dict`.
            assign: if True, use the arrays themselves, where their dtype is the parameter's, instead of copying them.

        Returns:
            :class:`IncompatibleKeys`: the names that are not in ``state``, and those in it of no parameter.

        Raises:
            CheckpointError: names or shapes do not fit; nothing has been changed then.
        """
        own = dict(self.named_parameters(remove_duplicate=False))
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        wrong = (("missing", missing), ("unexpected", unexpected)) if strict else ()
        problems = [f"{kind} {', '.join(names)}" for kind, names in wrong if names]
        arrays = {name: np.asarray(state[name]) for name in own if name in state}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                problems.append(f"{name} has shape {list(array.shape)}, expected {list(own[name].shape)}")
            elif array.dtype.kind not in "fiu":
                problems.append(f"{name} holds {array.dtype}, expected numbers")
        if problems:
            raise CheckpointError(f"load_state_dict of {type(self).__name__}: {'; '.join(problems)}")
        for name, array in arrays.items():
            parameter, K = own[name], kernels.on(own[name].device)
            values = K.asarray(array)
            if assign:
                parameter.data = K.contiguous(values.astype(parameter.dtype, copy=False))
                parameter.grad, parameter.grad_slot = None, None
            else:
                parameter.data[...] = values
        return IncompatibleKeys(missing, unexpected)

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Set this module and all modules in it to training mode (dropout on), or with ``mode=False`` to evaluation."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set this module and all modules in it to evaluation mode: dropout off."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context manager: evaluation mode and :func:`minirnn.no_grad` inside; then each module's mode is restored."""
        before = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with no_grad():
                yield
        finally:
            for module, training in before:
                module.training = training

    def to(self, target: DType) -> Self:
        """Convert all parameters in place to a floating-point dtype, or move them to a device; gradients are dropped.

        Args:
            target: "float32" or "float64" (also as NumPy has them), or "cpu" or "cuda".

        Raises:
            DTypeError, DeviceError: the dtype is not floating-point; the device is not available.
        """
        for parameter in self.parameters():
            if isinstance(target, str) and target in kernels.DEVICES:
                if parameter.device == target:
                    continue
                parameter.data, parameter.device = kernels.on(target).asarray(parameter.numpy()), target
            else:
                dtype = as_dtype(target)
                if dtype.kind != "f":
                    raise DTypeError(f"Module.to: expected a floating-point dtype, got {dtype}")
                parameter.data = parameter.data.astype(dtype)
            parameter.grad, parameter.grad_slot = None, None
        return self

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        head = f"{type(self).__name__}({self.extra_repr()}"
        return f"{head}\n" + "\n".join(lines) + "\n)" if lines else f"{head})"


def as_input(module: Module, x: ArrayLike) -> Tensor:
    """``x`` as a tensor; an array or a list takes the type of the module's first parameter, where it has one."""
    if isinstance(x, Tensor):
        return x
    like = next(module.parameters(), None)
    return tensor(x) if like is None else ops.as_tensor(x, like)


class Sequential(Module):
    """Modules one after the other, named "0", "1", ...; each takes what the one before returned.

    >>> import minirnn as mr
    >>> net = mr.nn.Sequential(mr.nn.Linear(3, 8), mr.nn.Tanh(), mr.nn.Linear(8, 2))
    >>> net(mr.zeros(5, 3)).shape
    (5, 2)
    """

    def __init__(self, *modules: Module) -> None:
        for number, module in enumerate(modules):
            setattr(self, str(number), module)

    def forward(self, x: Any) -> Any:
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":  # integers may be tokens
            x = as_input(self, x)
        for module in self:
            x = module(x)
        return x

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, index: int) -> Module:
        return list(iter(self))[index]


class ModuleList(Sequential):
    """A list of modules, one argument each, named "0", "1", ..., whose parameters are found; it has no forward."""

    def forward(self, x: Any) -> Any:
        raise TypeError("ModuleList has no forward(); call its members")
