"""The spec language: text to `Spec`, and `Spec` with a checkpoint's headers to `BoundSpec`."""

from rebasin_cli.spec.binding.bind import bind, one_sided_groups, uncovered
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec, drawn
from rebasin_cli.spec.binding.cut_blocks import without
from rebasin_cli.spec.binding.outline import (
    Outlines,
    idle_patterns,
    least_problems,
    outlines,
    ruled_out,
)
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.compression.draft import draft
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.library import bundled, load_spec, spec_text

__all__ = [
    "BoundGroup",
    "BoundSpec",
    "Outlines",
    "Spec",
    "bind",
    "bundled",
    "draft",
    "drawn",
    "dump",
    "idle_patterns",
    "least_problems",
    "load_spec",
    "one_sided_groups",
    "outlines",
    "parse",
    "ruled_out",
    "same_symmetry",
    "spec_text",
    "uncovered",
    "without",
]
