"""The spec language: text to `Spec`, and `Spec` with a checkpoint's headers to `BoundSpec`."""

from rebasin_cli.spec.bind import bind, one_sided_groups, uncovered
from rebasin_cli.spec.bound import BoundGroup, BoundSpec, drawn
from rebasin_cli.spec.cut import without
from rebasin_cli.spec.draft import draft
from rebasin_cli.spec.dump import dump
from rebasin_cli.spec.glance import ruled_out
from rebasin_cli.spec.library import bundled, load_spec, spec_text
from rebasin_cli.spec.model import Spec
from rebasin_cli.spec.outline import Outlines, idle_patterns, least_problems, outlines
from rebasin_cli.spec.parse import parse
from rebasin_cli.spec.same import same_symmetry

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
