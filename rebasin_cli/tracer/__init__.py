"""A model to its symmetry: record a run, tie axes together, name the groups, prove them."""

from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.trace import Trace, trace

__all__ = ["Choices", "Trace", "trace"]
