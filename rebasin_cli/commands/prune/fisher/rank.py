"""Ranking weights by the empirical Fisher: by its diagonal, or by blocks with updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.commands.prune.fisher.block_inverse import (
    WORD,
    BlockCut,
    saliencies,
    update_weights,
)
from rebasin_cli.commands.prune.fisher.example_gradients import ExampleLosses, Gradients
from rebasin_cli.commands.prune.fisher.fisher_passes import (
    FisherBlocks,
    RowRange,
    check_reached,
    diagonals,
)
from rebasin_cli.commands.prune.ranking import FisherFacts, Ranking
from rebasin_cli.commands.prune.thresholds import Rule, Zeroed
from rebasin_cli.errors import MachineError
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.network import UserCode
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import InMemory, TensorInfo, TensorSource, infos
from rebasin_cli.tensors.derived import Replaced

# Bytes of gradients. More take longer, as their pages are new each time; and with a bound what is
# added up together, and so the last digit, depends on free memory only where blocks do not fit.
AT_ONCE = 1 << 28
BLOCKS, GRADIENTS = 2, 4  # shares of the memory that is left: a half and a quarter


@dataclass(frozen=True)
class Dense:
    """The model that is pruned. names: of its weights, in the order in which equals go.

    Run on the CPU unless a device was named: masks are then the same wherever they are made.
    """

    source: TensorSource
    names: tuple[str, ...]
    code: UserCode
    machine: Machine
    progress: Progress

    def losses(self) -> ExampleLosses:
        """Return the model as it is run, with its data."""
        machine = self.machine.for_maps
        network = self.code.network
        model = build_network(network, self.source, machine)
        return ExampleLosses(model, network.windows, batches_of(self.code, machine))

    @property
    def memory(self) -> int:
        return self.machine.max_memory


class GradientPasses:
    """Gradients of all examples, again and again. examples: how many the last pass had.

    room: bytes, of which these take their share at most.
    """

    def __init__(self, dense: Dense, room: int) -> None:
        self._losses, self._room = dense.losses(), min(room // GRADIENTS, AT_ONCE)
        self._progress, self.examples = dense.progress, 0

    def __call__(self, names: Sequence[str]) -> Iterator[Gradients]:
        done = 0
        for found in self._losses.gradients(names, self._room):
            self._progress("taking gradients of examples", done, self.examples)
            done += len(found[names[0]])
            yield found
        self.examples = done


def rank_by_diagonal(dense: Dense) -> Ranking:
    """Return the ranking by w^2 F_qq / 2: what removing each weight alone costs, none moved."""
    passes = GradientPasses(dense, dense.memory)
    fisher = diagonals(passes, dense.names)
    check_reached(sum(float(values.sum()) for values in fisher.values()))
    costs = {
        name: dense.source.load(name).double().square() * values / 2
        for name, values in fisher.items()
    }
    values = InMemory(costs)
    return Ranking(
        values, lambda rules: Zeroed(dense.source, rules, values), FisherFacts(passes.examples)
    )


def _room(dense: Dense, weights: Sequence[TensorInfo]) -> int:
    """Return the bytes that the model, the costs and the result leave.

    Raises MachineError if that is nothing.
    """
    model = sum(info.nbytes for info in infos(dense.source).values())
    held = model + sum(info.numel * WORD + info.nbytes for info in weights)
    if held > dense.memory:
        raise MachineError(
            "not enough memory",
            detail=f"the model and the costs of its weights take {held / 1e9:.2f} GB, "
            f"{dense.memory / 1e9:.2f} GB may be used",
            hint="raise --max-memory, or --skip tensors",
        )
    return dense.memory - held


def rank_by_blocks(dense: Dense, block_size: int, damping: float) -> Ranking:
    """Return the ranking by w_q^2 / (2 [F^-1]_qq), and how those that stay are updated.

    damping: a share of the mean of the diagonal.
    """
    weights = [dense.source.info(name) for name in dense.names]
    cuts = {info.name: BlockCut.of(info.shape, block_size) for info in weights if info.numel}
    room = _room(dense, weights)
    passes = GradientPasses(dense, room)
    fisher = FisherBlocks(cuts, passes, room=room // BLOCKS, damping=damping)
    costs = {info.name: torch.empty(info.shape, dtype=torch.float64) for info in weights}

    def judge(rows: RowRange, inverse: Tensor) -> None:
        cut = cuts[rows.name]
        found = saliencies(rows.blocks(cut, dense.source.load(rows.name)), inverse)
        rows.of(costs[rows.name]).copy_(cut.values(found))

    fisher.show_inverses(judge)
    return Ranking(
        InMemory(costs),
        lambda rules: _updated(dense.source, fisher, costs, rules),
        FisherFacts(passes.examples, block_size, fisher.damping),
    )


def _updated(
    source: TensorSource,
    fisher: FisherBlocks,
    costs: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
) -> TensorSource:
    """Return a model whose remaining weights are changed to compensate for the pruned ones."""
    tensors = {
        name: source.load(name).clone(memory_format=torch.contiguous_format) for name in fisher.cuts
    }
    kept: dict[str, Tensor] = {}  # of the weight whose rows come one range after another

    def update(rows: RowRange, inverse: Tensor) -> None:
        name, cut = rows.name, fisher.cuts[rows.name]
        if name not in kept:
            kept.clear()
            kept[name] = rules[name].keeps(costs[name])
        keeps = rows.blocks(cut, kept[name]) > 0
        found = update_weights(rows.blocks(cut, source.load(name)), keeps, inverse)
        rows.of(tensors[name]).copy_(cut.values(found))

    fisher.show_inverses(update)
    return Replaced(source, tensors)
