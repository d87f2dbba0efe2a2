"""By which class of maps models are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebasin_cli.options.parameters import option
from rebasin_cli.options.search import PANEL


def symmetry_option(more: str, *, classes: Sequence[str] = ("permutation", "orthogonal")) -> Any:
    """Return what declares --symmetry. more: a sentence on what it does to this command's files."""
    return option(PANEL)(
        "--symmetry",
        metavar="|".join(classes),
        help="orthogonal: also rotate the residual stream of transformers and the dims inside "
        f"heads, where the spec allows it. {more}",
    )
