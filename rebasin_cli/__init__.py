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
    from rebasin_cli.api.applying import apply
    from rebasin_cli.api.judging import BarrierCurves, barrier
    from rebasin_cli.api.lineage import related
    from rebasin_cli.api.linear_maps import LinearMaps, load_maps
    from rebasin_cli.api.mixtures import lerp, merge
    from rebasin_cli.api.pairs import PairMatching, align, match, verify
    from rebasin_cli.api.rotations import fold, rotate
    from rebasin_cli.api.saving import open, save
    from rebasin_cli.api.specs import load_spec, trace
    from rebasin_cli.api.widths import widen
    from rebasin_cli.checkpoint.reader import Checkpoint
    from rebasin_cli.errors import RebasinError, RebasinWarning
    from rebasin_cli.spec.binding.bound import BoundSpec
    from rebasin_cli.spec.language.model import Spec
    from rebasin_cli.tracer.model_trace import Trace

__version__ = "0.1.0"

__all__ = [
    "BarrierCurves",
    "BoundSpec",
    "Checkpoint",
    "LinearMaps",
    "PairMatching",
    "RebasinError",
    "RebasinWarning",
    "Spec",
    "Trace",
    "align",
    "apply",
    "barrier",
    "fold",
    "lerp",
    "load_maps",
    "load_spec",
    "match",
    "merge",
    "open",
    "related",
    "rotate",
    "save",
    "trace",
    "verify",
    "widen",
]

_HOMES = {
    "BarrierCurves": "rebasin_cli.api.judging",
    "BoundSpec": "rebasin_cli.spec.binding.bound",
    "Checkpoint": "rebasin_cli.checkpoint.reader",
    "LinearMaps": "rebasin_cli.api.linear_maps",
    "PairMatching": "rebasin_cli.api.pairs",
    "RebasinError": "rebasin_cli.errors",
    "RebasinWarning": "rebasin_cli.errors",
    "Spec": "rebasin_cli.spec.language.model",
    "Trace": "rebasin_cli.tracer.model_trace",
    "align": "rebasin_cli.api.pairs",
    "apply": "rebasin_cli.api.applying",
    "barrier": "rebasin_cli.api.judging",
    "fold": "rebasin_cli.api.rotations",
    "lerp": "rebasin_cli.api.mixtures",
    "load_maps": "rebasin_cli.api.linear_maps",
    "load_spec": "rebasin_cli.api.specs",
    "match": "rebasin_cli.api.pairs",
    "merge": "rebasin_cli.api.mixtures",
    "open": "rebasin_cli.api.saving",
    "related": "rebasin_cli.api.lineage",
    "rotate": "rebasin_cli.api.rotations",
    "save": "rebasin_cli.api.saving",
    "trace": "rebasin_cli.api.specs",
    "verify": "rebasin_cli.api.pairs",
    "widen": "rebasin_cli.api.widths",
}


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
