"""Maps learned from the midpoint: it is to answer what the two ends answer on average.

The loss is the cross-entropy of the midpoint's answers against the mean of both models' softmax
outputs: distillation, without labels, which overfit (arXiv 2506.22712 learns with labels). Only
angles are learned; permutations stay as matching left them. Both ends keep their functions, which
no map changes, so nothing can be lost but the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.commands.align.orthogonal.map_learning_state import MapLearningState
from rebasin_cli.errors import UserCodeError
from rebasin_cli.folding.rotated_outcome import LearnedMaps
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.module_weights import fill, slopes_in
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.network.network import Network
from rebasin_cli.network.scoring.scores import call_model, logits_of
from rebasin_cli.network.user_code import users_gradient
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.symmetry.map_parameters import MapParameters
from rebasin_cli.symmetry.maps import GroupMaps, carry
from rebasin_cli.tensors import InMemory, TensorSource

RATE, BETAS, WARM_UP = 1e-2, (0.9, 0.99), 20  # of Adam, and steps until the rate is reached
LOOKS = 15  # at the held-out batches
PICTURE = 4  # dimensions of answers for each pixel, classes second


@dataclass(frozen=True)
class MapLearning:
    """A network for each end, whose answers teach, and one for the midpoint, which learns.

    ends: as they are. pair: folded, all tensors in float64 on the device of the maps. network:
    where tensors belong in it.
    """

    ends: tuple[nn.Module, nn.Module]
    midpoint: nn.Module
    network: Network
    pair: tuple[TensorSource, TensorSource]
    bound: BoundSpec
    split: DataSplit

    def learn(
        self,
        start: GroupMaps,
        classes: dict[str, str],
        steps: int,
        told: Progress,
        *,
        before: MapLearningState | None = None,
        keep: Callable[[MapLearningState], None] = lambda state: None,
    ) -> LearnedMaps:
        """Return the best maps of some steps. Raises UserCodeError for what the model raises.

        before: where an earlier run stood. keep: is given the state after each look.
        """
        parameters = MapParameters.at(start, classes)
        free = parameters.free
        adam = torch.optim.Adam(list(free.values()), lr=RATE, betas=BETAS)
        losses, best, done = {0: 0.0}, start, 0
        if before is None:
            losses[0] = self._held_out(start)
        else:
            before.put_into(free, adam)
            losses, best, done = dict(before.losses), before.best, before.step
        for step, batch in enumerate(self._batches(done, steps), done + 1):
            told("learning", step, steps)
            for group in adam.param_groups:
                group["lr"] = _rate(step, steps)
            adam.zero_grad()
            self._slope(parameters.maps(), batch)
            adam.step()
            if step % max(1, steps // LOOKS) == 0 or step == steps:
                with torch.no_grad():
                    now = parameters.maps()
                losses[step] = self._held_out(now)
                best = now if losses[step] <= min(losses.values()) else best
                keep(MapLearningState.of(step, free, adam, losses, best))
        return LearnedMaps(best, losses)

    def _batches(self, done: int, steps: int) -> Iterator[Batch]:
        """Yield a batch for each step that is not done yet, pass after pass."""
        self.split.count()  # raises where there is none: the passes would never end
        passes = (batch for _ in range(steps) for batch in self.split.learned())
        return islice(passes, done, steps)

    def _slope(self, maps: GroupMaps, batch: Batch) -> None:
        """Add the gradient of a batch's loss to the parameters that the maps are made of.

        Through the model by itself first, to its weights, and from them to the maps: no code of the
        user's has to be called in another way than usual.
        """
        moved = self._moved(maps)
        self._fill(moved)
        self.midpoint.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        with users_gradient(loss):
            torch.autograd.backward([loss])
        slopes = {
            # half of the midpoint is the moved model
            name: slope.to(moved[name].device).double() / 2
            for name, slope in slopes_in(self.midpoint, self.network.windows).items()
            if name in moved
        }
        reached = [name for name in slopes if moved[name].requires_grad]
        torch.autograd.backward([moved[n] for n in reached], [slopes[n] for n in reached])

    def _moved(self, maps: GroupMaps) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        held = set(self.pair[1].names())
        for tensor in (t for t in self.bound.tensors if held.issuperset(t.members)):
            whole = carry(tensor.load(self.pair[1]), tensor, maps)
            parts = whole.unbind(0) if tensor.stacked else (whole,)
            found.update(zip(tensor.members, parts, strict=True))
        return found

    def _fill(self, moved: dict[str, Tensor]) -> None:
        reference, other = self.pair
        with torch.no_grad():
            middle = {
                name: (reference.load(name) + moved.get(name, other.load(name))) / 2
                for name in reference.names()
                if reference.info(name).floating
            }
        fill(self.midpoint, InMemory(middle), self.network.windows)

    def _loss(self, batch: Batch) -> Tensor:
        return distilled_loss(self.ends, self.midpoint, batch)

    def _held_out(self, maps: GroupMaps) -> float:
        with torch.no_grad():
            self._fill(self._moved(maps))
            losses = [float(self._loss(batch)) for batch in self.split.held_out()]
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            raise UserCodeError(f"{self.split.batches.name}: the loss of the midpoint is {loss}")
        return loss


def distilled_loss(ends: Sequence[nn.Module], midpoint: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of a midpoint's answers against the mean of both ends' own."""
    with torch.no_grad():
        first, second = (_answers(end, batch).softmax(-1) for end in ends)
    return F.cross_entropy(_answers(midpoint, batch), (first + second) / 2)


def _answers(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a batch, one row for each distribution, in float64."""
    logits = logits_of(call_model(model, batch))
    logits = (logits.cpu() if logits.device.type == "mps" else logits).double()
    if logits.dim() == PICTURE:
        logits = logits.movedim(1, -1)
    return logits.flatten(0, -2)


def _rate(step: int, steps: int) -> float:
    """Return the rate of a step: up in a line, then down along a cosine."""
    return RATE * min(1, step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
