"""The norms of a spec among the names of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from rebasin_cli.spec.binding.bound import BoundNorm
from rebasin_cli.spec.binding.ties import Ties
from rebasin_cli.spec.language.expression import TEMPLATE
from rebasin_cli.spec.language.model import EVERY_TYPE, Norm, Spec
from rebasin_cli.spec.language.pattern import PatternMatch, compile_pattern, matches
from rebasin_cli.spec.language.tensor_names import TensorNames


def bind_norms(
    spec: Spec,
    names: TensorNames,
    ties: Ties,
    *,
    model_type: object,
) -> tuple[BoundNorm, ...]:
    """Return the norms, in checkpoint order of each pattern.

    model_type: that of config.json; None if there is none.
    """
    found = []
    for text, norm in spec.norms.items():
        pattern = compile_pattern(text)
        for match in matches(pattern, names):
            readers, writers = (
                tuple(sorted(_all_named(said, match, names), key=names.position))
                for said in (norm.readers, norm.writers)
            )
            tied = next(_named(norm.tied, match, names), None) if norm.tied else None
            one = ties.canonical(tied) if tied else None
            apart = tuple(name for name in readers if ties.canonical(name) != one)
            bias = next(_named(norm.bias or bias_of(match.name), match, names), None)
            bound = _bound(match.name, norm, apart, tied, bias if apart or tied else None)
            offset = _offset(norm, model_type)
            found.append(replace(bound, offset=offset, writers=writers))
    return tuple(found)


def _bound(
    gain: str, norm: Norm, readers: tuple[str, ...], tied: str | None, bias: str | None
) -> BoundNorm:
    return BoundNorm(
        gain=gain,
        bias=bias,
        kind=norm.kind,
        offset=0,
        readers=readers or ((tied,) if tied else ()),
        tied=not readers and tied is not None,
    )


def _offset(norm: Norm, model_type: object) -> int | None:
    if not norm.one_plus or EVERY_TYPE in norm.one_plus:
        return int(EVERY_TYPE in norm.one_plus)
    return None if model_type is None else int(model_type in norm.one_plus)


def bias_of(weight: str) -> str:
    """Return the name that the bias beside a weight has in PyTorch's modules."""
    before, _, after = weight.rpartition("weight")
    return f"{before}bias{after}"


def weight_of(bias: str) -> str:
    """Return the name that the weight beside a bias has in PyTorch's modules."""
    before, _, after = bias.rpartition("bias")
    return f"{before}weight{after}"


def _all_named(texts: Iterable[str], match: PatternMatch, names: TensorNames) -> set[str]:
    return {name for text in texts for name in _named(text, match, names)}


def _named(text: str, match: PatternMatch, names: TensorNames) -> Iterator[str]:
    """Yield the names that a pattern matches where its indices are those of the gain."""
    filled = TEMPLATE.sub(lambda t: _fill_index(t[0], t[1], match), text)
    return (found.name for found in matches(compile_pattern(filled), names))


def _fill_index(written: str, index: str, match: PatternMatch) -> str:
    return str(match.indices[index][1]) if index in match.indices else written
