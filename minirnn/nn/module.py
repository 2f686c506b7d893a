"""Module: a thing with parameters, and the list of other modules it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np

from minirnn import kernels
from minirnn.autograd.tape import no_grad
from minirnn.autograd.tensor import DType, Tensor, as_dtype
from minirnn.errors import CheckpointError, DTypeError


class Parameter(Tensor):
    """A leaf tensor that a module trains."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, device: str = "cpu") -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad, device)


class LoadedKeys(NamedTuple):
    """What :meth:`Module.load_state_dict` returns: names that were not given, and names it does not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and models.

    Parameters and modules assigned as attributes are found in the order of their assignment; their dotted
    names are those of :meth:`state_dict`, which are PyTorch's.
    """

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass has its own."""
        raise TypeError(f"{type(self).__name__} has no forward(); a module is called only where it defines one")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # ------------------------------------------------------------------------------------------- what is in it

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Modules assigned to this one, with their attribute names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        seen: set[int] = set()
        waiting: list[Module] = [self]
        while waiting:
            module = waiting.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                waiting.extend(reversed([child for _, child in module.named_children()]))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Dotted names, below ``prefix`` where there is one, and parameters, each parameter once."""
        seen: set[int] = set()
        for name, parameter in self._walk(prefix + "." * bool(prefix)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child._walk(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """How many numbers the parameters hold, frozen ones included."""
        return sum(parameter.numel() for parameter in self.parameters())

    # ------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every parameter by its dotted name."""
        return {name: parameter.numpy().copy() for name, parameter in self._walk("")}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadedKeys:
        """Set parameters from a mapping of names to anything ``np.asarray`` takes.

        Args:
            strict: every parameter must be there, and nothing else.
            assign: take the arrays themselves, where they have the parameter's type, rather than their values.

        Returns:
            the names of parameters that were not in ``state``, and the names in it that are of no parameter.

        Raises:
            CheckpointError: names or shapes do not fit; nothing has been changed then.
        """
        own = dict(self._walk(""))
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected {', '.join(unexpected)}")
        arrays = {name: np.asarray(state[name]) for name in own if name in state}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                problems.append(f"{name} has shape {list(array.shape)}, expected {list(own[name].shape)}")
            elif array.dtype.kind not in "fiu":
                problems.append(f"{name} holds {array.dtype}, expected numbers")
        if problems:
            raise CheckpointError(f"load_state_dict of {type(self).__name__}: {'; '.join(problems)}")
        for name, array in arrays.items():
            parameter = own[name]
            K = kernels.on(parameter.device)
            values = K.asarray(array)
            if assign:
                parameter.data = K.contiguous(values.astype(parameter.dtype, copy=False))
                parameter.grad, parameter.grad_slot = None, None
            else:
                parameter.data[...] = values
        return LoadedKeys(missing, unexpected)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Training behaviour (dropout on), or with ``mode=False`` that of :meth:`eval`."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation behaviour: dropout off."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, evaluation behaviour and no tape; afterwards everything as it was."""
        before = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with no_grad():
                yield
        finally:
            for module, training in before:
                module.training = training

    def to(self, target: DType) -> Self:
        """Convert all parameters in place to a floating type, or move them to a device."""
        for parameter in self.parameters():
            if isinstance(target, str) and target in kernels.DEVICES:
                if parameter.device == target:
                    continue
                parameter.data = kernels.on(target).asarray(parameter.numpy())
                parameter.device = target
            else:
                dtype = as_dtype(target)
                if dtype.kind != "f":
                    raise DTypeError(f"Module.to: parameters are floating-point, got {dtype}")
                parameter.data = parameter.data.astype(dtype)
            parameter.grad, parameter.grad_slot = None, None
        return self

    # ---------------------------------------------------------------------------------------------------- repr

    def extra_repr(self) -> str:
        """What a layer shows of itself between the brackets."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, child in self.named_children():
            lines.append(f"  ({name}): " + repr(child).replace("\n", "\n  "))
        head = f"{type(self).__name__}({self.extra_repr()}"
        return f"{head}\n" + "\n".join(lines) + "\n)" if lines else f"{head})"


class Sequential(Module):
    """Modules one after the other; each takes what the one before returned.

    >>> import minirnn as mr
    >>> net = mr.nn.Sequential(mr.nn.Linear(3, 8), mr.nn.Tanh(), mr.nn.Linear(8, 2))
    >>> net(mr.zeros(5, 3)).shape
    (5, 2)
    """

    def __init__(self, *modules: Module) -> None:
        for number, module in enumerate(modules):
            setattr(self, str(number), module)

    def forward(self, x: Any) -> Any:
        for _, module in self.named_children():
            x = module(x)
        return x

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __getitem__(self, number: int) -> Module:
        return [module for _, module in self.named_children()][number]


class ModuleList(Sequential):
    """Numbered modules that are not called as one."""

    def forward(self, x: Any) -> Any:
        raise TypeError("ModuleList is a list of modules; call its members")
