"""Which layers of a model are kept apart, and where it is cut: found by running it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from rebasin_cli.commands.merge.preserve_first.call_order import CallSpan, spans_of, weight_layers
from rebasin_cli.commands.merge.preserve_first.cut_points import CutPoint, cut_points
from rebasin_cli.commands.merge.preserve_first.cut_proof import cut_holds, pass_costs
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.network.user_code import users_code
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.wording import list_names

STEP = 0.05  # added to initial values: a layer that starts at zero would hide what it reads
_SHOWN = 12  # layers in a message


@dataclass(frozen=True)
class Cut:
    """A cut that was shown to be one.

    layers: of the model, that hold weights, in the order in which they are called; the first
    `count` are kept. part, whole: operations of a pass up to the cut, and of all.
    """

    cut_point: CutPoint
    layers: tuple[str, ...]
    count: int
    part: int
    whole: int

    @property
    def kept(self) -> tuple[str, ...]:
        return self.layers[: self.count]

    def cost(self, models: int) -> float:
        """Return the operations of a pass in which so many models run up to the cut, over one."""
        return 1.0 + (models - 1) * self.part / self.whole if self.whole else 1.0


@dataclass(frozen=True)
class WatchedModel:
    """A model in float64, an input, and when its modules are called."""

    model: nn.Module
    example: Example
    spans: Mapping[str, CallSpan]
    layers: tuple[str, ...]


def plan_cut(subject: Subject, first: str) -> Cut:
    """Return the cut behind the first layers of a model.

    first: how many, or a glob that names modules, the last of which is the last kept. Raises
    UsageError if there are no such layers, or if what follows depends on more than one tensor.
    """
    watched = _build_watched(subject)
    count = _count(watched, first)
    cut_point = _cut_point(watched, count)
    if cut_point is None:
        raise UsageError(
            f"the model cannot be cut behind {watched.layers[count - 1]!r}, its {_nth(count)} "
            "layer: what follows reads more than one tensor of what comes before",
            hint=_elsewhere(watched, count),
        )
    part, whole = pass_costs(watched.model, cut_point, watched.example)
    return Cut(cut_point, watched.layers, count, part, whole)


def widen_example(example: Example) -> Example:
    """Return a call with its floating tensors in float64."""

    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    args, kwargs = map_leaves((example.args, dict(example.kwargs)), Tensor, wide)
    return Example(args, kwargs)


def _build_watched(subject: Subject) -> WatchedModel:
    with users_code("the model"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = subject.build()
        examples = subject.examples(model)
        model = _moved(model.double().eval())
    example = widen_example(examples[0])
    spans = spans_of(model, example)
    return WatchedModel(model, example, spans, tuple(weight_layers(model, spans)))


def _moved(model: nn.Module) -> nn.Module:
    """Return a model with its parameters away from their initial values, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype), alpha=STEP)
    return model


def _count(watched: WatchedModel, first: str) -> int:
    """Return how many layers are kept. Raises UsageError if it cannot be so many."""
    layers = watched.layers
    if first.isdecimal():
        count = int(first)
    else:
        named = [n for n, layer in enumerate(layers, 1) if _named(layer, first)]
        if not named:
            hint = suggest(first, watched.spans) or f"its layers: {list_names(layers, _SHOWN)}"
            raise UsageError(f"--preserve-first {first!r} names no layer", hint=hint)
        count = max(named)
    if not 0 < count < len(layers):
        most = len(layers) - 1
        raise UsageError(
            f"--preserve-first {first} keeps {count} of {len(layers)} layers",
            detail=f"its layers: {list_names(layers, _SHOWN)}",
            hint=f"a number from 1 to {most}; without it all layers are merged"
            if count == 0
            else f"at most {most} can be kept: behind the last there is nothing to merge",
        )
    return count


def _named(layer: str, glob: str) -> bool:
    """Return whether a glob names a layer, or a module that it is part of."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:n]), glob) for n in range(1, len(parts) + 1))


def _cut_point(watched: WatchedModel, count: int) -> CutPoint | None:
    """Return the latest cut behind the first layers, None if none is possible."""
    model, spans, example = watched.model, watched.spans, watched.example
    found = cut_points(model, spans, watched.layers, count)
    return next(
        (cut_point for cut_point in found if cut_holds(model, spans, cut_point, example)), None
    )


def _elsewhere(watched: WatchedModel, count: int) -> str:
    """Return which cuts are possible next to one that is not."""
    after = range(count + 1, len(watched.layers))
    before = range(count - 1, 0, -1)
    said = []
    for word, counts in (("next", after), ("before", before)):
        for other in counts:
            cut_point = _cut_point(watched, other)
            if cut_point is not None:
                said.append(f"--preserve-first {other} ({word}: joined at {cut_point.join!r})")
                break
    return " or ".join(said) or "it cannot be cut between two of its layers"


def _nth(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"
