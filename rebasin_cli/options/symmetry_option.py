"""By which class of maps models are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebasin_cli.options.parameters import flag
from rebasin_cli.options.search import PANEL


def symmetry_option(more: str, *, classes: Sequence[str] = ("permutation", "orthogonal")) -> Any:
    """Return what declares --symmetry. more: a sentence on what it does to this command's files."""
    return flag(
        "--symmetry",
        default=classes[0],
        rich_help_panel=PANEL,
        metavar="|".join(classes),
        help="orthogonal: also rotate the residual stream of transformers and the dims inside "
        f"heads, where the spec allows it. {more}",
    )


def tie_option(panel: str | None = PANEL) -> Any:
    """Return what declares --tie. panel: the heading of the help that it stands under."""
    return flag(
        "--tie",
        default="auto",
        rich_help_panel=panel,
        metavar="auto|keep|untie",
        help="Where the output head is the embedding and norms are folded. keep: it stays so, and "
        "outputs move a little. untie: it becomes a tensor of its own, and they do not. auto: keep "
        "where that is near.",
    )
