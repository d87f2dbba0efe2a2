"""What the models before and after are worth on data, and which scale is worth most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rebasin_cli.commands.transport.tensor_fates import TensorFates
from rebasin_cli.commands.transport.transported import CarriedFrame, Transported
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import batches_of, build_network, judge_of
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.network.network import Network, UserCode
from rebasin_cli.network.scoring.scores import (
    Judge,
    Scores,
    cross_entropy_judge,
    has_targets,
    mean_loss,
)
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource

# From nothing to a half more than was learned; published scales lie between .3 and 1.
SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class ScoredModel:
    """What is said of one model. scale: of the difference in it; None: it has none."""

    name: str
    scores: Scores
    scale: float | None = None


@dataclass(frozen=True)
class Bench:
    """Where models are judged: the user's code on a machine.

    tuned: the model of the tuned checkpoint, where it is another class than the target's. judging:
    the batches that models are judged on; None: all of them, or what a function of the user takes.
    """

    code: UserCode
    tuned: Network
    machine: Machine
    judging: Batches | None = None

    def can_judge(self, target: TensorSource) -> bool:
        """Return whether something says how good a model is: a function, or right answers."""
        if self.code.evaluate is not None:
            return True
        model = build_network(self.code.network, target, self.machine)
        return has_targets(model, next(iter(batches_of(self.code, self.machine))))

    def score(self, source: TensorSource, network: Network) -> Scores:
        """Return what the judge says of a model with some tensors."""
        model = build_network(network, source, self.machine)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.machine.seed)
            return self._judge(model)

    @property
    def _judge(self) -> Judge:
        if self.judging is not None and self.code.evaluate is None:
            return cross_entropy_judge(self.judging)
        return judge_of(self.code, self.machine)

    def best_scale(self, frame: CarriedFrame, fates: TensorFates, split: DataSplit) -> float:
        """Return the scale of SCALES whose model loses least on the held-out batches.

        Among equals the smallest: nothing is added for nothing.
        """
        model = build_network(self.code.network, frame.target, self.machine)
        losses = {
            scale: self._loss(model, Transported(frame, fates, scale), split) for scale in SCALES
        }
        return min(SCALES, key=losses.__getitem__)

    def _loss(self, model: nn.Module, source: TensorSource, split: DataSplit) -> float:
        fill(model, source, self.code.network.windows)
        return mean_loss(model, split.held_out(), split.batches.name)


@dataclass(frozen=True)
class Contender:
    """A difference that is judged, in a frame, times a scale."""

    name: str
    frame: CarriedFrame
    scale: float


def score_models(
    bench: Bench,
    contenders: Sequence[Contender],
    fates: TensorFates,
    tuned: TensorSource,
    progress: Progress,
) -> Iterator[ScoredModel]:
    """Yield the scores of the target, of it with each difference, and of the tuned model."""
    network, number = bench.code.network, len(contenders) + 2
    progress("judging the models", 0, number)
    target = Transported(contenders[-1].frame, fates, 0.0)
    yield ScoredModel("target", bench.score(target, network))
    for done, one in enumerate(contenders, 1):
        progress("judging the models", done, number)
        model = Transported(one.frame, fates, one.scale)
        yield ScoredModel(one.name, bench.score(model, network), one.scale)
    progress("judging the models", number - 1, number)
    yield ScoredModel("tuned", bench.score(tuned, bench.tuned))
