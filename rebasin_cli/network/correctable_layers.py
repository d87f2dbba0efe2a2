"""Layers whose statistics can be corrected: found by watching a run, and corrected in place."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.hooks import RemovableHandle

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.layers import Layer, input_hook, layers_of, with_hooks
from rebasin_cli.network.scoring.scores import call_model, logits_of
from rebasin_cli.tensors import RUNNING_STATISTICS
from rebasin_cli.tensors.trees import tensors_in


@dataclass(frozen=True)
class Correction:
    """y <- scale y + shift, unit by unit: (n,) each, float64."""

    scale: Tensor
    shift: Tensor


Watcher = Callable[[str, Tensor], Correction | None]


@dataclass(frozen=True)
class CorrectableLayer:
    """A layer that can be corrected. calls: how often a pass through the model calls it."""

    layer: Layer
    calls: int = 1

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def biased(self) -> bool:
        return getattr(self.layer.module, "bias", None) is not None

    def moved(self, module: nn.Module) -> CorrectableLayer:
        """Return the site in another model of the same class."""
        return CorrectableLayer(Layer(self.name, module), self.calls)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names in the model's state dict of what a correction changes."""
        own = RUNNING_STATISTICS if self.layer.norm else ("weight", "bias")
        prefix = f"{self.name}." if self.name else ""
        kept = own if self.layer.norm or self.biased else own[:1]
        return tuple(prefix + name for name in kept)


@dataclass(frozen=True)
class Skipped:
    """A layer that is not corrected, and the reason. norm: whether it is a BatchNorm."""

    name: str
    why: str
    norm: bool = False


@dataclass(frozen=True)
class CorrectableLayers:
    """What can be corrected, in the order in which a pass reaches it, and what cannot."""

    corrected: tuple[CorrectableLayer, ...]
    skipped: tuple[Skipped, ...]

    @property
    def norms(self) -> tuple[CorrectableLayer, ...]:
        return tuple(site for site in self.corrected if site.layer.norm)

    def without(self, reason: Callable[[CorrectableLayer], str]) -> CorrectableLayers:
        """Return the sites for which there is no reason to leave them as they are."""
        reasons = {site.name: reason(site) for site in self.corrected}
        kept = tuple(site for site in self.corrected if not reasons[site.name])
        left = [site for site in self.corrected if reasons[site.name]]
        more = (Skipped(site.name, reasons[site.name], site.layer.norm) for site in left)
        return CorrectableLayers(kept, (*self.skipped, *more))

    def selected(self, selects: Callable[[str], bool]) -> CorrectableLayers:
        """Return the sites of which `selects` takes a tensor by its name in the state dict."""
        return self.without(lambda s: "" if any(map(selects, s.tensors)) else "not selected")


@dataclass
class _PassRecord:
    """What one pass shows: outputs and the state they were in, calls, what a norm reads."""

    calls: Counter[str] = field(default_factory=Counter)
    outputs: list[tuple[str, Tensor, int]] = field(default_factory=list)
    normed: set[str] = field(default_factory=set)

    def entered(self, layer: Layer, value: Tensor) -> None:
        self.calls[layer.name] += 1
        if layer.norm:
            # a tensor that was changed in place since is no longer what the layer returned
            same = (n for n, t, version in self.outputs if t is value and t._version == version)
            self.normed.update(same)

    def left(self, layer: Layer, value: Tensor) -> None:
        self.outputs.append((layer.name, value, value._version))


def find_correctable(model: nn.Module, batch: Batch) -> CorrectableLayers:
    """Return the layers that can be corrected: a batch is run to see how they are connected.

    A layer whose output is the input of a BatchNorm, the very tensor, is not: the norm undoes any
    correction. Nor is one that returns what the model does.
    """
    layers, seen = layers_of(model), _PassRecord()
    with with_hooks(_both_ends(layers, seen)), torch.no_grad():
        returned = call_model(model, batch)
    answers = {_storage(tensor) for tensor in _answers(returned)}
    last = {name for name, tensor, _ in seen.outputs if _storage(tensor) in answers}
    shared = _shared(model)
    by_name = {layer.name: layer for layer in layers}
    reasons = {name: _reason(layer, seen, last, shared) for name, layer in by_name.items()}
    order = list(dict.fromkeys([*seen.calls, *by_name]))
    return CorrectableLayers(
        tuple(CorrectableLayer(by_name[n], seen.calls[n]) for n in order if reasons[n] is None),
        tuple(
            Skipped(name, why, by_name[name].norm)
            for name in order
            if (why := reasons[name]) is not None
        ),
    )


def watch_layers(
    sites: Sequence[CorrectableLayer], see: Watcher
) -> contextlib.AbstractContextManager[None]:
    """Show `see` what each layer returns, and what each norm reads: its name, (samples, units).

    What it gives back, if anything, is done to the layer's output before others read it.
    """
    return with_hooks(_watch(site.layer, see) for site in sites)


def _watch(layer: Layer, see: Watcher) -> RemovableHandle:
    if layer.norm:
        return input_hook(layer.module, lambda read: see(layer.name, layer.samples(read)))

    def changed(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        made = see(layer.name, layer.samples(output))
        return None if made is None else _correct_output(output, layer.axis(output), made)

    return layer.module.register_forward_hook(changed)


def _correct_output(output: Tensor, axis: int, made: Correction) -> Tensor:
    beside = [1] * output.dim()
    beside[axis] = -1
    return output * made.scale.to(output).view(beside) + made.shift.to(output).view(beside)


def _both_ends(layers: Sequence[Layer], seen: _PassRecord) -> Iterator[RemovableHandle]:
    for layer in layers:
        yield input_hook(layer.module, partial(seen.entered, layer))
        yield layer.module.register_forward_hook(
            lambda m, inputs, output, layer=layer: seen.left(layer, output)
        )


def _reason(
    layer: Layer, seen: _PassRecord, last: set[str], shared: Mapping[int, list[str]]
) -> str | None:
    """Return why a layer is left as it is; None if it need not be."""
    module = layer.module
    if not seen.calls[layer.name]:
        return "the pass does not call it"
    if layer.norm:
        return (
            None if getattr(module, "running_var", None) is not None else "it keeps no statistics"
        )
    if is_parametrized(module) or not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other parameters"
    others = [n for p in module.parameters(recurse=False) for n in shared.get(id(p), [])]
    others = [name for name in others if name.rpartition(".")[0] != layer.name]
    if others:
        return f"it shares parameters with {others[0]}"
    if layer.name in last:
        return "it returns the model's output"
    return "a BatchNorm follows" if layer.name in seen.normed else None


def _shared(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of parameters that have more than one, by identity."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: held for key, held in names.items() if len(held) > 1}


def _answers(returned: Any) -> list[Tensor]:
    """Return the outputs that a user looks at: logits, else all tensors."""
    if isinstance(returned, tuple | list) and not hasattr(returned, "logits"):
        return tensors_in(returned)
    try:
        return [logits_of(returned)]
    except UserCodeError:
        return tensors_in(returned)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
