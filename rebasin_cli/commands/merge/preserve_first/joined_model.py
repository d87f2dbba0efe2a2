"""Models of one class whose first layers stay apart and whose other layers are one.

The sources of these functions and classes are copied into the files that `merge --preserve-first`
writes, so they may use nothing but torch and what is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Joined(nn.Module):
    """Runs each of the parents up to the join, and the trunk with their weighted mean from there.

    parents, trunk: models of one class, which are changed. join: the module in the trunk whose
    input is the mean. kept: modules that only the parents have; merged: those that only the trunk
    has. weights: add up to 1.
    """

    def __init__(
        self,
        parents: Sequence[nn.Module],
        trunk: nn.Module,
        *,
        join: str,
        kept: Sequence[str],
        merged: Sequence[str],
        weights: Sequence[float],
    ) -> None:
        super().__init__()
        self.parents, self.trunk = nn.ModuleList(parents), trunk
        self.weights = tuple(weights)
        self.echoes: list[list[Any]] = []
        self.inputs: list[Tensor] = []
        for parent in parents:
            for name in merged:
                replace_module(parent, name, nn.Module())
            replace_module(parent, join, Join())
        for name in kept:
            self._keep(name)
        trunk.get_submodule(join).register_forward_pre_hook(self._joined, with_kwargs=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for echo in self.echoes:
            echo.clear()
        self.inputs = [input_at_join(parent, args, kwargs) for parent in self.parents]
        return self.trunk(*args, **kwargs)

    def _keep(self, name: str) -> None:
        """Let the trunk repeat what a module of the first parent returns: it only gives shapes."""
        echo: list[Any] = []
        self.echoes.append(echo)
        self.parents[0].get_submodule(name).register_forward_hook(Listen(echo))
        replace_module(self.trunk, name, Echo(echo))

    def _joined(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Give the join the mean as its input, once in each pass."""
        if not self.inputs:
            return None
        terms = [w * x for w, x in zip(self.weights, self.inputs, strict=True)]
        self.inputs, place = [], place_of_input(args, kwargs)
        if isinstance(place, str):
            return args, {**kwargs, place: sum(terms)}
        return (*args[:place], sum(terms), *args[place + 1 :]), kwargs


class JoinReached(Exception):
    """Ends the pass of a parent, with the input of the join."""

    def __init__(self, value: Tensor) -> None:
        super().__init__("a layer that is merged was reached")
        self.value = value


class Join(nn.Module):
    """Stands in a parent where the trunk goes on."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        place = place_of_input(args, kwargs)
        raise JoinReached(kwargs[place] if isinstance(place, str) else args[place])


class Listen:
    """A hook that notes what a module returns."""

    def __init__(self, echo: list[Any]) -> None:
        self.echo = echo

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.echo.append(with_tensors(output, copied))


class Echo(nn.Module):
    """Stands in the trunk for a module that the parents have: returns what theirs did."""

    def __init__(self, echo: list[Any]) -> None:
        super().__init__()
        self.echo = echo

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.echo.pop(0)


def input_at_join(parent: nn.Module, args: Any, kwargs: Any) -> Tensor:
    """Return what a parent makes of an input, up to the join."""
    try:
        parent(*args, **kwargs)
    except JoinReached as reached:
        return reached.value
    raise RuntimeError("no layer that is merged was reached")


def place_of_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return which argument is the input: the first that is a floating tensor."""
    for place, value in [*enumerate(args), *kwargs.items()]:
        if isinstance(value, Tensor) and value.is_floating_point():
            return place
    raise TypeError("the join is called without a floating tensor")


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of another, under all the names that it has."""
    old = model.get_submodule(name)
    for owner in list(model.modules()):
        for key, child in list(owner._modules.items()):
            if child is old:
                setattr(owner, key, new)


# Not `tensors.trees`: this is written into the file of the joint model, which imports nothing of
# ours, and the model that goes on wants its own output classes back, known to torch or not.
def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return what a module returned with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        items = {key: with_tensors(item, change) for key, item in value.items()}
        made: Any = type(value)
        return items if made is dict else made(**items)
    if type(value) in (tuple, list):
        return type(value)(with_tensors(item, change) for item in value)
    return value


def copied(tensor: Tensor) -> Tensor:
    """Return a tensor of its own: what a module returned may be overwritten later."""
    return tensor.detach().clone()
