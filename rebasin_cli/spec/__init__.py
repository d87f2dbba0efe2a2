"""The spec language: text to `Spec`, and `Spec` with a checkpoint's headers to `BoundSpec`."""

from rebasin_cli.spec.bind import bind, uncovered
from rebasin_cli.spec.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.draft import draft
from rebasin_cli.spec.dump import dump
from rebasin_cli.spec.library import bundled, load_spec, spec_text
from rebasin_cli.spec.model import Spec
from rebasin_cli.spec.parse import parse

__all__ = [
    "BoundGroup",
    "BoundSpec",
    "Spec",
    "bind",
    "bundled",
    "draft",
    "dump",
    "load_spec",
    "parse",
    "spec_text",
    "uncovered",
]
