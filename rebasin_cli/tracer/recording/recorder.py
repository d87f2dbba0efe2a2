"""Record a forward pass: every operator that reaches the dispatcher, decomposed to primitives."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

from rebasin_cli.errors import UsageError
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.decisions import asks_for_number, code_line
from rebasin_cli.tracer.recording.dispatch import OperatorMode
from rebasin_cli.tracer.recording.record import Call, Value, values_in

FOLDED = 1 << 22  # elements; larger constants keep no numbers


@contextmanager
def primitive_kernels() -> Iterator[None]:
    """Keep fused kernels off, so that a model runs as the same operators on every machine."""
    onednn = torch._C._get_mkldnn_enabled()
    with ExitStack() as stack:
        # `torch.backends.mkldnn.flags` would also set a TF32 option, and warn that it cannot.
        stack.callback(torch._C._set_mkldnn_enabled, onednn)
        torch._C._set_mkldnn_enabled(False)
        stack.enter_context(unfused_attention())
        yield


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Keep off the kernels that do all of attention in one; nothing is kept for gradients."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.no_grad())
        yield


class Recorder(OperatorMode):
    """Records calls while it is entered; the innermost mode, over a fake mode or none.

    What is made from no parameter keeps its numbers: next to fake tensors each operator on
    constants and inputs alone is also run for real, because control flow may ask for them.
    """

    def __init__(self, *, fake: bool) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.lines: dict[int, str] = {}  # of the model's code, where that asks for numbers
        self.fake = fake
        self._overwritten: set[Value] = set()
        self._values: dict[int, tuple[weakref.ref[Tensor], Value]] = {}
        self._count = 0

    def name(self, tensor: Tensor, source: str, *, data: Tensor | None = None) -> Value:
        """Return the value of a tensor that no call made."""
        return self._known(tensor) or self._add(tensor, source, data, None)

    def find(self, tensor: Tensor) -> Value | None:
        """Return the value of a tensor that was seen before."""
        return self._known(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs, options = map_leaves((args, kwargs), Tensor, self._operand)
        number = _constant_number(func, inputs)
        if number is not None:
            return number
        constant = facts(plain_name(func)).only_shaped or all(
            self._constant(value) for value in values_in((inputs, options))
        )
        real = _real(func, inputs, options) if self.fake else None
        result = func(*args, **kwargs)
        in_place = torch.Tag.inplace_view not in func.tags
        written = tuple(_written(func, inputs, options)) if in_place else ()
        if not constant:
            self._overwritten.update(value.root for value in written)
        numbers = real if self.fake else result if constant else None
        if not in_place:
            del self._values[id(args[0])]  # the tensor is a view of what it was from now on
        results = self._results(result, numbers, constant, _viewed(func, inputs))
        call = Call(len(self.calls), plain_name(func), func, inputs, options, results, written)
        self.calls.append(call)
        if asks_for_number(call):
            self.lines[call.index] = code_line()
        return result

    def _known(self, tensor: Tensor) -> Value | None:
        reference, value = self._values.get(id(tensor), (None, None))
        return value if reference is not None and reference() is tensor else None

    def _constant(self, value: Value) -> bool:
        return value.root.source == "constant" and value.root not in self._overwritten

    def _operand(self, tensor: Tensor) -> Value:
        """Return the value of an argument; one never seen before is a constant of the code."""
        known = self._known(tensor)
        return known or self._add(tensor, "constant", _numbers(tensor), None)

    def _add(self, tensor: Tensor, source: str, data: Tensor | None, base: Value | None) -> Value:
        if tensor.is_nested:
            raise UsageError(
                "the model makes a nested tensor, which has no axes that could be followed",
                hint="trace it on tensors of one length, which are padded, or write its spec",
            )
        shape, layout = tuple(tensor.shape), _layout(tensor)
        value = Value(self._count, shape, tensor.dtype, source, data, base, *layout)
        self._count += 1
        self._values[id(tensor)] = weakref.ref(tensor), value
        return value

    def _results(
        self, result: Any, numbers: Any, constant: bool, base: Value | None
    ) -> tuple[Value | None, ...]:
        """Number the results; views share the root of the argument that they look at."""
        source = "constant" if constant else ""
        known = _flat(numbers) if numbers is not None else []
        made: list[Value | None] = []
        for position, tensor in enumerate(_flat(result)):
            if not isinstance(tensor, Tensor):
                made.append(None)
                continue
            data = _small(known[position]) if position < len(known) else None
            made.append(self._known(tensor) or self._add(tensor, source, data, base))
        return tuple(made)


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], int]:
    """Return the strides and the offset of a tensor; one that is not dense has none."""
    strided = tensor.layout == torch.strided
    return (tensor.stride(), int(tensor.storage_offset())) if strided else ((), 0)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Value]:
    """Yield the values that an operator writes into, as its schema says."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from values_in(given)


def plain_name(func: Any) -> str:
    """Return the name of an operator without its overload, and without `aten`."""
    name = str(func._schema.name)
    return name.removeprefix("aten::")


def _flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple | list) else [result]


def _numbers(tensor: Tensor) -> Tensor | None:
    """Return the numbers of a tensor made outside the run; fake and meta tensors have none."""
    plain = type(tensor) in {Tensor, torch.nn.Parameter} and not tensor.is_meta
    with _disable_current_modes():
        return _small(tensor.detach()) if plain else None


def _small(tensor: Any) -> Tensor | None:
    return tensor if isinstance(tensor, Tensor) and tensor.numel() <= FOLDED else None


def _viewed(func: Any, args: Any) -> Value | None:
    """Return the argument whose storage the results share, if the operator is a view."""
    schema = func._schema
    if not schema.returns or schema.returns[0].alias_info is None:
        return None
    for argument, given in zip(schema.arguments, args, strict=False):
        if argument.alias_info is not None and isinstance(given, Value):
            return given
    return None


def _constant_number(func: Any, args: Any) -> Any:
    """Return `tensor.item()` of a constant, which a fake tensor cannot tell."""
    if func is not torch.ops.aten._local_scalar_dense.default:
        return None
    data = args[0].data
    return None if data is None else data.item()


def _real(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on the numbers of constants, or return None if one has none."""
    if torch.Tag.nondeterministic_seeded in func.tags:
        return None

    def number(value: Value) -> Tensor | None:
        return torch.empty(value.shape, dtype=value.dtype) if only_shaped else value.data

    only_shaped = facts(plain_name(func)).only_shaped
    values = values_in((args, kwargs))
    if any(v.data is None or prod(v.shape) > FOLDED for v in values) and not only_shaped:
        return None
    with _disable_current_modes():
        real_args, real_kwargs = map_leaves((args, kwargs), Value, number)
        try:
            return func(*real_args, **real_kwargs)
        except RuntimeError:  # an operator that this machine cannot run: its result is unknown
            return None
