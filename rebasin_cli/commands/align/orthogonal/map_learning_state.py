"""Where learning of maps stands after a step: from there it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.kept_state import KeptState, data_circumstances
from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.symmetry.map_parameters import PROJECTIONS
from rebasin_cli.symmetry.maps import GroupMaps

STATE = "rebasin.learned_maps"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what Adam keeps of each parameter


@dataclass(frozen=True)
class MapLearningState:
    """What has been learned after some steps.

    free: the parameters of the maps, by group. moments: of Adam, by group, for those that it has
    moved. losses: by step. best: the maps of the least of them.
    """

    step: int
    free: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    losses: Mapping[int, float]
    best: GroupMaps

    @classmethod
    def of(
        cls,
        step: int,
        free: Mapping[str, Tensor],
        adam: torch.optim.Adam,
        losses: Mapping[int, float],
        best: GroupMaps,
    ) -> MapLearningState:
        """Return the state of parameters and of what moves them."""
        moments = {
            name: adam.state[values] for name, values in free.items() if values in adam.state
        }
        return cls(step, free, moments, losses, best)

    def put_into(self, free: Mapping[str, Tensor], adam: torch.optim.Adam) -> None:
        """Give parameters, and what moves them, the values that they had."""
        for name, values in free.items():
            with torch.no_grad():
                values.copy_(self.free[name])
            if name in self.moments:
                kept = self.moments[name]
                moved = {key: kept[key].to(values.device) for key in MOMENTS[:2]}
                adam.state[values] = {**moved, "step": kept["step"]}

    def write(self, kept: KeptState) -> None:
        """Write it, whole or not at all."""
        tensors = {f"free/{name}": values.detach() for name, values in self.free.items()}
        tensors |= {
            f"{key}/{name}": each[key] for name, each in self.moments.items() for key in MOMENTS
        }
        tensors |= {f"order/{n}": p.index.int() for n, p in self.best.permutations.items()}
        tensors |= {f"matrix/{n}": m.matrix for n, m in self.best.linear.items()}
        kept.write(
            tensors, {"step": self.step, "losses": {str(k): v for k, v in self.losses.items()}}
        )


def kept_learning(plan: OrthogonalPlan, model: Checkpoint) -> KeptState | None:
    """Return the file for the state of learning, and what has to be as it was; None: no file."""
    request, problem = plan.request, plan.problem
    if request.learning.resume is None:
        return None
    circumstances = {
        **data_circumstances(request),
        "number of steps": request.learn,
        "number of samples": request.data.samples,
        "method": request.search.method,
        "spec": dump(problem.choice.bound.spec),
        "sizes": dict(request.selection.sizes),
        "heads of their own": sorted(problem.heads),
        "model": request.tracing.target,
    }
    pair = problem.models[0], model
    return KeptState(request.learning.resume, STATE, pair, circumstances)


def read_map_learning(
    kept: KeptState, start: GroupMaps, classes: Mapping[str, str]
) -> MapLearningState:
    """Return the state in a file. start: the maps that learning began at; classes: of their groups.

    Raises CheckpointError if it is no such file, or one of other models or options.
    """
    held, facts = kept.read()
    try:
        free = {n: held[f"free/{n}"] for n in start.linear if classes[n] in PROJECTIONS}
        moments = {
            name: {key: held[f"{key}/{name}"] for key in MOMENTS}
            for name in free
            if f"{MOMENTS[0]}/{name}" in held
        }
        losses = {int(step): float(loss) for step, loss in facts["losses"].items()}
        if any(values.shape != start.linear[n].matrix.shape for n, values in free.items()):
            raise ValueError("a parameter is not of the form of its map")
        return MapLearningState(int(facts["step"]), free, moments, losses, _best(held, start))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise kept.refused("it does not hold the maps of the spec") from error


def _best(held: Mapping[str, Tensor], start: GroupMaps) -> GroupMaps:
    """Return the maps in a file. Raises KeyError or ValueError for those of another spec."""
    orders = {
        n: replace(p, index=held[f"order/{n}"].to(p.index)) for n, p in start.permutations.items()
    }
    matrices = {
        n: replace(m, matrix=held[f"matrix/{n}"].to(m.matrix)) for n, m in start.linear.items()
    }
    found = GroupMaps(orders, matrices)
    for name, each in start.linear.items():
        if found.linear[name].matrix.shape != each.matrix.shape:
            raise ValueError(name)
    return found
