"""Tensors that follow no weight that is known: refused by name, or kept with a warning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rebasin_cli.checkpoint.failures import cap_problems
from rebasin_cli.errors import PermutationError, Problem, warn
from rebasin_cli.wording import listing

_HINT = "--keep-unknown leaves it as it is, in the order of the old weights"


def refuse_or_keep(wrong: Mapping[str, Problem], where: Path, *, keep_unknown: bool) -> None:
    """Raise PermutationError for tensors that follow no weight; with `keep_unknown` warn of them.

    wrong: name of a tensor -> why it follows none.
    """
    if not wrong:
        return
    if keep_unknown:
        text = f"{where}: kept as it is, in the order of the old weights: {listing(list(wrong))}"
        warn(text)
        return
    found = [replace(p, where=str(where), hint=p.hint or _HINT) for p in wrong.values()]
    raise PermutationError(*cap_problems(found))
