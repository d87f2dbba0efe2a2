"""Generalised Procrustes: each model next to the mean of the others, round after round.

The mean of models that are aligned already is nearer to what they have in common than any of them
is, and no model is the one that all others have to fit. Measured on three seeds each of a ViT, a
GPT and a llama, means over the three that may be the reference, the loss of the merge is .72, 2.09
and 2.75 by weights (star: .84, 2.13, 2.79), and .75, 2.01 and 2.41 by activations (star: .84, 2.05,
2.47). Further rounds change less than the choice of the reference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from rebasin_cli.folding.rotated_models import RotationFrame, match_star
from rebasin_cli.folding.stream_moments import StreamMoments
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.merging.sources import Mean
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import MapSettings, cosine_of, identity_maps, match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried, GroupMaps

ROUNDS = 2


def match_universe(frame: RotationFrame, progress: Progress) -> dict[int, MapMatching]:
    """Return the maps of all models but the reference, which all had their turn.

    They begin where weights alone bring each next to the reference, whatever the rounds go by:
    from where activations do, the loss is .82, 1.99 and 2.39.
    """
    plan = frame.problem.folding
    star = match_star(replace(frame, moments=None), progress)
    sweeps = {number: found.sweeps for number, found in star.items()}
    maps = [identity_maps(plan.moving, plan.classes)] * len(frame.folded)
    for number, found in star.items():
        maps[number] = found.maps
    for _ in range(ROUNDS):
        for number in range(len(maps)):
            found = _next_to_the_mean(frame, maps, number, progress)
            maps[number] = maps[number].then(found.maps)
            sweeps[number] = sweeps.get(number, 0) + found.sweeps
    back = maps[frame.reference].inverse()
    maps = [each.then(back) for each in maps]
    return {
        number: MapMatching(
            maps[number],
            Change(star[number].cosine.before, _cosine(frame, maps, number)),
            sweeps[number],
        )
        for number in frame.others
    }


def _next_to_the_mean(
    frame: RotationFrame, maps: Sequence[GroupMaps], number: int, progress: Progress
) -> MapMatching:
    """Return what brings a model, where its maps have put it, next to the mean of the others."""
    plan = frame.problem.folding
    others = [other for other in range(len(maps)) if other != number]
    return match_maps(
        Mean([_moved_model(frame, maps, other) for other in others], [1] * len(others), 0, _all),
        _moved_model(frame, maps, number),
        plan.moving,
        plan.classes,
        moments=_summed(frame.moments, maps, number, others) if frame.moments else None,
        settings=MapSettings(device=frame.problem.machine.device),
        progress=progress,
    )


def _all(name: str) -> bool:
    return True


def _moved_model(frame: RotationFrame, maps: Sequence[GroupMaps], number: int) -> Carried:
    return Carried(frame.folded[number], frame.problem.folding.moving.tensors, maps[number])


def _summed(
    moments: StreamMoments, maps: Sequence[GroupMaps], number: int, others: Sequence[int]
) -> dict[str, Tensor]:
    """Return E[y y'] of the sum of others and a model, all where their maps have put them.

    E[(sum of Q_j y_j) (Q y)'] = sum of Q_j E[y_j y'] Q': what they do need not be run again.
    """
    total: dict[str, Tensor] = {}
    for other in others:
        for group, found in moments.between(other, number).items():
            first, last = (maps[n].linear[group].matrix for n in (other, number))
            moved = first @ found @ last.T
            total[group] = total[group] + moved if group in total else moved
    return total


def _cosine(frame: RotationFrame, maps: Sequence[GroupMaps], number: int) -> float:
    """Return the cosine of a model, where its maps have put it, with the reference."""
    plan, reference = frame.problem.folding, frame.folded[frame.reference]
    return cosine_of(reference, _moved_model(frame, maps, number), plan.moving, plan.classes)
