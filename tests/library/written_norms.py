"""The norms of the models that a bundled spec is written from, as one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_cli.spec.language.model import EVERY_TYPE, Norm

if TYPE_CHECKING:
    from tests.library.written import Described


def joined_norms(rows: Sequence[Described]) -> dict[str, Norm]:
    """Return gain -> norm for all variants, by names in files.

    What a norm multiplies by is told by the model types; a head that some variants store is the
    reader, and in the others it is the embedding.
    """
    found: dict[str, list[Norm]] = {}
    for row in rows:
        for gain, norm in row.classes.norms.items():
            kind = str(row.model.config().get("model_type", ""))
            plus = (kind,) if norm.one_plus == (EVERY_TYPE,) and kind else norm.one_plus
            found.setdefault(gain, []).append(
                replace(norm, one_plus=plus, readers=(*norm.readers, *_heads(row, norm)))
            )
    return {gain: _joined_norm(norms) for gain, norms in found.items()}


def _heads(row: Described, norm: Norm) -> list[str]:
    """Return the other names of an embedding that is the head: where files untie it, they read."""
    aliases = [alias for alias, first in row.ties.items() if norm.tied and first == norm.tied]
    return [alias for alias in aliases if "embed" not in alias]


def _joined_norm(norms: Sequence[Norm]) -> Norm:
    def every(field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for norm in norms for name in getattr(norm, field)))

    assert len({norm.kind for norm in norms}) == 1, norms
    told = {norm.tied for norm in norms if norm.tied}
    assert len(told) <= 1, norms
    return replace(
        norms[0],
        readers=every("readers"),
        writers=every("writers"),
        one_plus=every("one_plus"),
        tied=next(iter(told), None),
    )


def spelled_norm(norm: Norm, spell: Callable[[str], str]) -> Norm:
    """Return a norm with the spellings of files in its patterns."""
    readers, writers = (tuple(map(spell, said)) for said in (norm.readers, norm.writers))
    tied, bias = (spell(said) if said else None for said in (norm.tied, norm.bias))
    return replace(norm, readers=readers, writers=writers, tied=tied, bias=bias)
