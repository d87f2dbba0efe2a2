"""Forms of one model that have other tensors: weights in parts, adapters, codes of torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

_FACTOR = re.compile(r"(^|[._])(lora|hada|lokr)_|\.lora\.")
_ADAPTER = (
    "these are an adapter's: `rebasin apply PERM FILE` moves it along with its model; other "
    "commands need it merged into that model (merge_and_unload of PEFT)"
)

# What stands behind the name of a weight in parts, what makes them, and what undoes it.
_BEHIND: Sequence[tuple[tuple[str, ...], str, str]] = (
    (("_g", "_v"), "weight norm", "torch.nn.utils.remove_weight_norm(module)"),
    (("_orig", "_mask"), "pruning", "torch.nn.utils.prune.remove(module, 'weight')"),
    (("_orig", "_u"), "spectral norm", "torch.nn.utils.remove_spectral_norm(module)"),
)
_PARAMETRIZED = (
    "a parametrization",
    "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
)


def form_hint(missing: Collection[str], extra: Collection[str]) -> str:
    """Return what to do where names differ since a model is stored in another form, else nothing.

    missing, extra: names that one of two models has alone, and those of the other.
    """
    if extra and all(_FACTOR.search(name) for name in extra):
        return _ADAPTER
    pairs = ((missing, extra), (extra, missing))
    found = (hint for whole, parts in pairs for hint in islice(_in_parts(whole, parts), 1))
    return next(found, "")


def _in_parts(whole: Collection[str], parts: Collection[str]) -> Iterator[str]:
    for name in whole:
        for kind, undo in _kinds(name, parts):
            yield (
                f"{name!r} is stored in parts, those of {kind}: save it again where it was made, "
                f"after {undo}; or name the class that has them with --model, for models that all "
                "have them"
            )
        if f"{name.removesuffix('weight')}scale" in parts and name.endswith(".weight"):
            yield f"{name!r} was quantised by torch: name the weights from before"


def _kinds(name: str, parts: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what a weight was taken apart by, and what puts it together."""
    for endings, kind, undo in _BEHIND:
        if all(f"{name}{ending}" in parts for ending in endings):
            yield kind, undo
    module, _, leaf = name.rpartition(".")
    start = f"{module}.parametrizations.{leaf}.original".removeprefix(".")
    if any(part.startswith(start) for part in parts):
        yield _PARAMETRIZED
