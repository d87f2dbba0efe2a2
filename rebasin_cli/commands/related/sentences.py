"""What models are to each other in words, and what that rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rebasin_cli.commands.related.convex_means import Merge
from rebasin_cli.commands.related.kin import RELATED, Kin, KinPair
from rebasin_cli.wording import count


def verdict_sentence(pair: KinPair) -> str:
    """Return what two models are to each other, as one sentence."""
    made, of = (pair.a, pair.b) if pair.swapped else (pair.b, pair.a)
    return f"{made} {_SENTENCES[pair.kin](pair).format(of=of)}"


def _rounded(pair: KinPair) -> str:
    order = f"with {count(pair.moved, 'unit')} in another place, " if pair.moved else ""
    return f"is {{of}}, {order}to the rounding of {pair.dtype}"


def _pruned(pair: KinPair) -> str:
    zeros = sorted(100 * marks.zeros for marks in pair.marks or ())
    return (
        f"is {{of}} pruned: {zeros[-1]:.0f} % of its weights are zero, "
        f"{zeros[0]:.0f} % of those of the other"
    )


def _part(pair: KinPair) -> str:
    near = pair.nearness
    size, share = (len(near.matrices), near.kept) if near else (0, 0.0)
    return (
        f"shares a part with {{of}}: {len(pair.kept)} of {size} matrices, {100 * share:.0f} % of "
        "the weights, come from one model, and the others have nothing in common"
    )


_SENTENCES: Mapping[Kin, Callable[[KinPair], str]] = {
    Kin.SAME_BYTES: lambda pair: "is {of}: the same bytes",
    Kin.SAME_TENSORS: lambda pair: "has the tensors of {of}, bit by bit, in another file",
    Kin.PERMUTED: lambda pair: (
        f"is a permuted copy of {{of}}: bit by bit, with {count(pair.moved, 'unit')} "
        "in another place"
    ),
    Kin.ROUNDED: _rounded,
    Kin.ROTATED: lambda pair: (
        f"is a rotated copy of {{of}}: the same to the rounding of {pair.dtype}, "
        "its units turned by maps"
    ),
    Kin.RESCALED: lambda pair: (
        "is a rescaled copy of {of}: its matrices are the same but for scales of units and maps "
        "inside heads"
    ),
    Kin.QUANTISED: lambda pair: (
        "is {of} quantised: its weights are multiples of few steps, those of the other are not"
    ),
    Kin.PRUNED: _pruned,
    Kin.TRAINED: lambda pair: (
        "and {of} are related by training: one was fine-tuned from the other, or both from one"
    ),
    Kin.PART: _part,
    Kin.UNCLEAR: lambda pair: (
        "and {of} are nearer than independent runs mostly are, and not as near as fine-tunes: "
        "weights alone do not tell"
    ),
    Kin.INDEPENDENT: lambda pair: (
        "and {of} are independent runs: nothing says that one comes from the other"
    ),
}


def basis_lines(pair: KinPair) -> list[str]:
    """Return what a verdict rests on: a line for each figure."""
    lines = []
    if pair.stored and not pair.stored.equal:
        stored = pair.stored
        lines.append(
            f"as stored, in the best order found: {len(stored.different)} of "
            f"{count(stored.tensors, 'tensor')} differ, |A-B| is {stored.distance:.3g} of |A|"
        )
    if pair.nearness:
        near = pair.nearness
        lines.append(
            f"matrices without scales and bases: cosine {near.cosine:.3f}, unrelated weights "
            f"matched alike {near.null:.3f}: score {near.excess:.3f} "
            f"(related from {RELATED:g}, a copy 1)"
        )
        lines.append(
            f"{len(pair.kept)} of {len(near.matrices)} matrices descend from their counterparts, "
            f"{100 * near.kept:.0f} % of the weights"
        )
    return lines


def merge_sentence(merge: Merge[Path]) -> str:
    """Return of which models a merge is one."""
    parts = list(zip(merge.shares, merge.parents, strict=True))
    if merge.base is None:
        return f"{merge.model} is a merge: " + " + ".join(f"{s:.2f} {path}" for s, path in parts)
    if merge.kept is None:
        moves = " ".join(f"{share:+.2f} ({path} - {merge.base})" for share, path in parts)
        return f"{merge.model} is a merge by task arithmetic: {merge.base} {moves}"
    moves = ", ".join(f"{share:.2f} ({path} - {merge.base})" for share, path in parts)
    return (
        f"{merge.model} is a merge over {merge.base} that keeps entries, as by TIES or DARE: "
        f"{100 * merge.kept:.0f} % of its difference are entries of {moves}"
    )


def merge_basis(merge: Merge[Path]) -> str:
    """Return how much of a merge its parents leave open."""
    if merge.base is None:
        return f"  what is left is {merge.left:.2g} of the way to the nearest"
    of = "way" if merge.kept is None else "squared way"
    return f"  what is left is {merge.left:.2g} of the {of} from {merge.base}"
