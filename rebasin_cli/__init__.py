"""Align, merge and interpolate neural networks modulo permutation symmetry.

    import rebasin_cli as rb

    found = rb.match("a.safetensors", "b.safetensors")
    rb.save(found.apply("b.safetensors"), "b.aligned.safetensors")

The command line is `rebasin_cli.cli`. Nothing is imported before it is used.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rebasin_cli.api.applying import apply as apply
    from rebasin_cli.api.judging import BarrierCurves as BarrierCurves
    from rebasin_cli.api.judging import barrier as barrier
    from rebasin_cli.api.lineage import related as related
    from rebasin_cli.api.linear_maps import LinearMaps as LinearMaps
    from rebasin_cli.api.linear_maps import load_maps as load_maps
    from rebasin_cli.api.mixtures import lerp as lerp
    from rebasin_cli.api.mixtures import merge as merge
    from rebasin_cli.api.pairs import PairMatching as PairMatching
    from rebasin_cli.api.pairs import align as align
    from rebasin_cli.api.pairs import match as match
    from rebasin_cli.api.pairs import verify as verify
    from rebasin_cli.api.rotations import fold as fold
    from rebasin_cli.api.rotations import rotate as rotate
    from rebasin_cli.api.saving import open as open
    from rebasin_cli.api.saving import save as save
    from rebasin_cli.api.specs import load_spec as load_spec
    from rebasin_cli.api.specs import trace as trace
    from rebasin_cli.api.widths import widen as widen
    from rebasin_cli.checkpoint.reader import Checkpoint as Checkpoint
    from rebasin_cli.errors import RebasinError as RebasinError
    from rebasin_cli.errors import RebasinWarning as RebasinWarning
    from rebasin_cli.spec.binding.bound import BoundSpec as BoundSpec
    from rebasin_cli.spec.language.model import Spec as Spec
    from rebasin_cli.tracer.model_trace import Trace as Trace

__version__ = "0.1.0"

# The public names, by the module of the package that has them.
_NAMES = {
    "api.applying": ("apply",),
    "api.judging": ("BarrierCurves", "barrier"),
    "api.lineage": ("related",),
    "api.linear_maps": ("LinearMaps", "load_maps"),
    "api.mixtures": ("lerp", "merge"),
    "api.pairs": ("PairMatching", "align", "match", "verify"),
    "api.rotations": ("fold", "rotate"),
    "api.saving": ("open", "save"),
    "api.specs": ("load_spec", "trace"),
    "api.widths": ("widen",),
    "checkpoint.reader": ("Checkpoint",),
    "errors": ("RebasinError", "RebasinWarning"),
    "spec.binding.bound": ("BoundSpec",),
    "spec.language.model": ("Spec",),
    "tracer.model_trace": ("Trace",),
}
_HOMES = {
    name: f"rebasin_cli.{module}"
    for name, module in sorted((name, home) for home, names in _NAMES.items() for name in names)
}

__all__ = list(_HOMES)


if not TYPE_CHECKING:  # to type checkers, any name would be there

    def __getattr__(name: str) -> object:
        """Import what is asked for (PEP 562), so that `import rebasin_cli` costs nothing."""
        if name not in _HOMES:
            raise AttributeError(f"module 'rebasin_cli' has no attribute {name!r}")
        drawn = random.getstate()  # other packages draw numbers when they are imported
        try:
            return getattr(import_module(_HOMES[name]), name)
        finally:
            random.setstate(drawn)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
