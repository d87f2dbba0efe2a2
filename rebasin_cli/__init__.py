"""Align, merge and interpolate checkpoint files modulo permutation symmetry.

Start with `rebasin_cli.checkpoint.open_checkpoint`, `rebasin_cli.spec.bind` and
`rebasin_cli.matching.match_weights`; the command line is `rebasin_cli.cli`.
This module imports nothing, so that any part of the package can be imported cheaply.
"""

__version__ = "0.1.0"
