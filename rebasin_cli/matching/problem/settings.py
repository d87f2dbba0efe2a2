"""How to search: what the user may choose, and what an effort stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from rebasin_cli.errors import UsageError, look_up
from rebasin_cli.matching.relaxation.losses import LOSSES

VISITS = 200  # of each family; published runs settle within 50 sweeps


@dataclass(frozen=True)
class Effort:
    """What is tried without being asked for.

    starts: of descents by coordinates, of which the best alone goes on beyond its first visits.
    cheap: multiplications of one sweep up to which there is a walk through the polytope of soft
    permutations, and beside it a descent from each start in `beside`. restarts: walks from
    near the middle, or where there are none descents from random starts.
    """

    starts: tuple[str, ...]
    beside: tuple[str, ...] = ()
    cheap: float = 0
    restarts: int = 0


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(("descriptor",)),
    "default": Effort(("descriptor", "identity"), ("descriptor",), cheap=5e9),
    "best": Effort(("descriptor", "identity"), ("descriptor", "identity"), math.inf, restarts=4),
}


@dataclass(frozen=True)
class Settings:
    """How to search.

    method: a key of METHODS. loss: a key of LOSSES, for the methods that have one. effort: a key
    of EFFORTS. order: a key of ORDERS. starts: names in STARTS, tried in turn; None: those of the
    effort. restarts: random starts besides those.
    jobs: threads; the result does not depend on it. max_memory: bytes of tensors to keep.
    visits: of each family, at most, in one descent. fast: on a device, products in the reduced
    precision that it is quickest in.
    """

    seed: int = 0
    method: str = "auto"
    loss: str = "l2"
    effort: str = "default"
    order: str = "random"
    starts: tuple[str, ...] | None = None
    restarts: int = 0
    jobs: int = 1
    device: str = "cpu"
    max_memory: int = 4 << 30
    visits: int = VISITS
    fast: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a name that is not in its table."""
        look_up("effort", self.effort, EFFORTS)
        look_up("order", self.order, ORDERS)
        look_up("loss", self.loss, LOSSES)
        if self.loss != "l2" and self.method != "sinkhorn":
            raise UsageError(
                f"method {self.method!r} knows no loss but l2", hint="add --method sinkhorn"
            )


Order = Callable[[Sequence[str], torch.Generator], list[str]]


def random_order(roots: Sequence[str], generator: torch.Generator) -> list[str]:
    """Return the families in random order."""
    return [roots[k] for k in torch.randperm(len(roots), generator=generator).tolist()]


def forward(roots: Sequence[str], generator: torch.Generator) -> list[str]:
    """Return the families as they come in the checkpoint."""
    return list(roots)


def backward(roots: Sequence[str], generator: torch.Generator) -> list[str]:
    """Return the families from the last to the first."""
    return list(reversed(roots))


def alternate(roots: Sequence[str], generator: torch.Generator) -> list[str]:
    """Return the families from outside to inside: first, last, second, last but one."""
    ends = [(roots[k], roots[-1 - k]) for k in range((len(roots) + 1) // 2)]
    return list(dict.fromkeys(root for pair in ends for root in pair))


ORDERS: Mapping[str, Order] = {
    "random": random_order,
    "forward": forward,
    "backward": backward,
    "alternate": alternate,
}
