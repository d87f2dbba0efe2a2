"""Run a model once and record what it does, on real tensors or on fake ones without memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rebasin_cli.models.module_weights import renew
from rebasin_cli.tensors.numbers import is_floating
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.recording.decisions import deciding_lines
from rebasin_cli.tracer.recording.idle_members import list_names
from rebasin_cli.tracer.recording.record import Record, Value
from rebasin_cli.tracer.recording.recorder import Recorder, primitive_kernels
from rebasin_cli.tracer.recording.training_calls import calling

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


def record(model: nn.Module, examples: Sequence[Arguments]) -> Record:
    """Record calls of a model whose tensors are real. The model is not changed."""
    return _record(model, examples, Recorder(fake=False), {})


def record_fake(model: nn.Module, examples: Sequence[Arguments]) -> Record:
    """Record calls of a model, without memory for its tensors and without arithmetic.

    model: on the meta device or on the CPU; it is turned into fake tensors, in place.
    Raises what the model raises where its control flow asks for numbers that nobody knows.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        data = _make_fake(model, mode)

        def fake(tensor: Tensor) -> Tensor:
            made = mode.from_tensor(tensor)
            data[id(made)] = tensor
            return made

        fakes = [map_leaves(example, Tensor, fake) for example in examples]
        return _record(model, fakes, Recorder(fake=True), data)


def attempt(recording: Callable[[], Record]) -> Record | None:
    """Return what a recording does, None where the model does not take its calls."""
    try:
        return recording()
    except Exception:  # the code of any model runs here
        return None


def _record(
    model: nn.Module,
    examples: Sequence[Arguments],
    recorder: Recorder,
    data: Mapping[int, Tensor],
) -> Record:
    tensors = _name_tensors(model, recorder, data)
    outputs: dict[str, Value] = {}
    chosen: list[str] = []
    ends: list[int] = []
    for number, call in enumerate(examples):
        args, kwargs = call
        map_leaves(
            (args, kwargs), Tensor, lambda t: recorder.name(t, "input", data=data.get(id(t)))
        )
        with calling(model, call), primitive_kernels(), recorder:
            renew(model)  # what was kept before is no constant
            returned = model(*args, **kwargs)
        found = {f"{number}:{n}": recorder.find(t) for n, t in named_outputs(returned).items()}
        outputs.update({name: value for name, value in found.items() if value is not None})
        primary = (f"{number}:{name}" for name in primary_outputs(returned))
        chosen.extend(name for name in primary if name in outputs)
        ends.append(len(recorder.calls))
    return Record(
        tuple(recorder.calls),
        tensors,
        outputs,
        tuple(chosen),
        tuple(ends),
        list_names(model),
        deciding_lines(recorder.calls, tensors.values(), recorder.lines),
    )


def _name_tensors(
    model: nn.Module, recorder: Recorder, data: Mapping[int, Tensor]
) -> dict[str, Value]:
    """Number the parameters and buffers; those outside the state dict are constants."""
    stored = model.state_dict(keep_vars=True)
    parameters = {id(parameter) for parameter in model.parameters()}
    named = {}
    for name, tensor in stored.items():
        if isinstance(tensor, Tensor):
            kind = "parameter" if id(tensor) in parameters else "buffer"
            numbers = data.get(id(tensor)) if recorder.fake else tensor.detach()
            named[name] = recorder.name(tensor, f"{kind} {name}", data=numbers)
    for name, tensor in model.named_parameters(remove_duplicate=False):
        recorder.name(tensor, f"parameter {name}")
    for _, tensor in model.named_buffers():
        recorder.name(tensor, "constant", data=data.get(id(tensor)) if recorder.fake else tensor)
    return named


def primary_outputs(returned: Any) -> list[str]:
    """Return the names of the outputs that a user of the model looks at.

    Those with `logits` in their name, or the first of an object that also carries hidden states
    and caches; of a plain tuple, list or dictionary, all. Whole numbers are labels or codes, which
    count units, so they are looked at too, but for the experts that a router chose.
    """
    found = named_outputs(returned)
    inner = {n: t for n, t in found.items() if n.rpartition("_")[2] != "loss"} or found
    floating = [name for name, t in inner.items() if is_floating(t.dtype)] or list(inner)
    logits = [name for name in floating if "logits" in name and "router" not in name]
    first = logits or (floating[:1] if hasattr(returned, "to_tuple") else floating)
    counts = {n for n, t in inner.items() if not is_floating(t.dtype) and "router" not in n}
    return [name for name in inner if name in counts.union(first)]


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """Return the tensors in what a model returned, by dotted key, field or position."""
    found: dict[str, Tensor] = {}
    _collect(returned, "", found)
    return found


# Not `tensors.trees`: torch has no names for what is in the output classes of transformers, which
# tell it how to take them apart and no more, nor for the dataclasses of other models.
def _collect(tree: Any, name: str, found: dict[str, Tensor]) -> None:
    if isinstance(tree, Tensor):
        found[name or "output"] = tree
    elif isinstance(tree, Mapping):
        _collect_items(tree, name, found)
    elif isinstance(tree, tuple | list):
        keys = getattr(tree, "_fields", range(len(tree)))
        _collect_items(dict(zip(keys, tree, strict=True)), name, found)
    elif is_dataclass(tree) and not isinstance(tree, type):
        values = {field.name: getattr(tree, field.name) for field in fields(tree)}
        _collect_items(values, name, found)


def _collect_items(items: Mapping[Any, Any], name: str, found: dict[str, Tensor]) -> None:
    for key, item in items.items():
        _collect(item, f"{name}.{key}" if name else str(key), found)


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> dict[int, Tensor]:
    """Replace the tensors of a model by fake ones on the CPU, tied ones by one tensor.

    Returns the numbers of buffers that have some, by the id of the fake tensor.
    """
    made: dict[int, Tensor] = {}
    data: dict[int, Tensor] = {}
    for module in model.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    store[name] = fake = made.setdefault(id(tensor), _fake(tensor, mode))
                    if store is module._buffers and not tensor.is_meta:
                        data[id(fake)] = tensor
    return data


def _fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return nn.Parameter(fake, requires_grad=False) if isinstance(tensor, nn.Parameter) else fake
