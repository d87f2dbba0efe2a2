"""What becomes of each tensor: it gets a difference, is that of the tuned model, or stays."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError, UsageError
from rebasin_cli.files.difference import difference_of, label_names, shape_text
from rebasin_cli.merging.whole_numbers import number_kind
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import TensorInfo, infos


@dataclass(frozen=True)
class TensorFates:
    """Names of tensors, by what becomes of them.

    carried: get the difference. replaced: are those of the tuned model, since the origin has none,
    or one of another shape; with what is known of them. All others are those of the target.
    """

    carried: frozenset[str]
    replaced: dict[str, TensorInfo]


def fates_of(
    tuned: Checkpoint, origin: Checkpoint, target: Checkpoint, selection: Selection
) -> TensorFates:
    """Return what becomes of the tensors of a target, from headers alone.

    Numbers that are whole have no difference: they stay. Raises CheckpointError where less of the
    two models is alike than not: then one is no fine-tune of the other.
    """
    ours, theirs, there = infos(tuned), infos(origin), infos(target)
    apart = difference_of(theirs, ours, selection)
    unlike = {*apart.extra, *apart.shapes, *apart.kinds}
    alike = apart.common - unlike
    if len(alike) <= len(unlike) + len(apart.missing):
        shapes = [shape_text(n, ours[n].shape, theirs[n].shape) for n in apart.shapes]
        raise CheckpointError(
            f"it is no fine-tune of {origin.path}: less of the two is alike than not",
            where=str(tuned.path),
            detail="\n".join(
                label_names("missing", apart.missing)
                + label_names("not expected", apart.extra)
                + label_names("shape", shapes)
            ),
            hint="rebasin transport TUNED --from BASE_A --to BASE_B: TUNED began as BASE_A",
        )
    carried = (
        name
        for name in alike
        if selection.selects(name) and name in there and number_kind(theirs[name].dtype) != "whole"
    )
    return TensorFates(
        frozenset(carried),
        {name: ours[name] for name in ours if name in unlike and selection.selects(name)},
    )


def refuse_replaced(fates: TensorFates, tuned: Checkpoint, origin: Checkpoint) -> None:
    """Raise UsageError where the tuned model has tensors that its origin has not, or otherwise."""
    if fates.replaced:
        names = sorted(fates.replaced)
        raise UsageError(
            f"{names[0]!r} of {tuned.path} is not in {origin.path}, or has another shape there",
            detail="such tensors are carried whole by --map permutation alone",
            hint="--map permutation, or " + " ".join(f"--skip '{name}'" for name in names),
        )
