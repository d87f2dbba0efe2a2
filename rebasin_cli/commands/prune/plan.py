"""The plan of `rebasin prune`: which weights of a checkpoint, by which rule, written where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.prune.thresholds import METHODS
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import Data
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.output import Output
from rebasin_cli.options.renormalization import Renormalization
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.renormalization.corrected import Report
from rebasin_cli.renormalization.plan import MEASURING, CorrectionPlan, plan_correction

# Of tensors with two or more axes, what no layer multiplies its inputs by: tables of embeddings
# and positions, class tokens, norms over several axes, biases and masks. A file has only names.
_PLAIN = re.compile(r"norm|bias|mask|(^|[._])(cls|ln|bn)([._\d]|$)")


_TABLE = re.compile(r"emb|token|(^|[._])(wte|wpe|pos)([._]|$)")


_CONVOLUTION = 4  # axes from which a name with `embed` in it is a layer: patch_embed.proj


@dataclass(frozen=True)
class PruneRequest:
    """What is pruned, and by how much.

    renormalize: how the statistics are corrected afterwards, with the dense model as the parent.
    """

    model: Path
    sparsity: float
    method: str = "magnitude"
    renormalize: str | None = None
    selection: Selection = Selection()
    output: Output = Output()
    computing: Computing = Computing()
    tracing: Tracing = Tracing()
    data: Data = Data()


@dataclass(frozen=True)
class PrunePlan:
    """All that `run_prune` needs.

    names: the tensors that are pruned, in the file's order. correction: of the statistics
    afterwards, None if they stay as they are.
    """

    model: Checkpoint
    names: tuple[str, ...]
    method: str
    sparsity: float
    correction: CorrectionPlan | None
    target: Target
    machine: Machine
    request: PruneRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "prune",
            "inputs": describe_inputs([self.model]),
            "method": self.method,
            "sparsity": self.sparsity,
            "tensors": list(self.names),
            "weights": sum(self.model.info(name).numel for name in self.names),
            "renormalize": self.correction.describe() if self.correction else None,
            "outputs": [describe_target(self.target)],
        }


def plan_prune(request: PruneRequest) -> PrunePlan:
    """Return what pruning a checkpoint will do; nothing is read but headers.

    Raises UsageError for a share that is none, an unknown method, or if no tensor has weights.
    """
    sparsity, method = request.sparsity, request.method
    if not 0 < sparsity < 1:
        raise UsageError(
            f"--sparsity {sparsity:g} is no share of the weights",
            hint="0.8 sets four of five to zero: a number between 0 and 1",
        )
    if method not in METHODS:
        hint = suggest(method, METHODS) or " or ".join(METHODS)
        raise UsageError(f"no method is called {method!r}", hint=hint)
    machine = plan_machine(request.computing, Search())
    (model,) = open_models([request.model], request.selection)
    refuse_codes([model], request.selection, done="pruned by magnitude")
    (out,) = output_paths([model], request.output, word="pruned")
    return PrunePlan(
        model=model,
        names=weight_names(model, request),
        method=method,
        sparsity=sparsity,
        correction=_correction(model, request),
        target=plan_target(
            out,
            model,
            request.selection,
            request.output,
            own=[model],
            create=request.output.names_folder,
        ),
        machine=machine,
        request=request,
    )


def _correction(model: Checkpoint, request: PruneRequest) -> CorrectionPlan | None:
    """Return how the pruned model is corrected: all of it, whatever was pruned."""
    renormalize = request.renormalize
    if renormalize is None:
        if request.tracing.target is not None or request.data.data is not None:
            raise UsageError(
                "--model and --data say nothing to pruning by magnitude",
                hint="--renormalize reset, repair or rescale runs the model afterwards",
            )
        return None
    if renormalize not in MEASURING:
        hint = suggest(renormalize, MEASURING) or ", ".join(MEASURING)
        raise UsageError(f"--renormalize {renormalize} is not for pruned models", hint=hint)
    return plan_correction(
        model,
        request.selection.all_tensors,
        request.tracing,
        request.data,
        Renormalization(renormalize),
    )


def weight_names(model: Checkpoint, request: PruneRequest) -> tuple[str, ...]:
    """Return the floating tensors of two or more axes that are weights of layers, each once.

    --only decides by itself what is a weight. Raises UsageError if nothing is left.
    """
    arrays = [n for n in model.names() if model.info(n).floating and len(model.info(n).shape) > 1]
    names = tuple(
        name
        for name in arrays
        if name not in model.ties
        and request.selection.selects(name)
        and (request.selection.only or all(_weight(each, model) for each in _called(name, model)))
    )
    if not any(model.info(name).numel for name in names):
        raise UsageError(
            "there is no weight to prune",
            hint="a weight is a floating tensor of two or more axes that is no table of "
            "embeddings; --only GLOB prunes those that it names",
        )
    return names


def _called(name: str, model: Checkpoint) -> list[str]:
    """Return all names of a tensor: of an output tied to a table, one says so."""
    return [name, *(alias for alias, first in model.ties.items() if first == name)]


def _weight(name: str, model: Checkpoint) -> bool:
    """Return whether a tensor is what a layer multiplies its inputs by, as far as names tell."""
    lower = name.lower()
    table = _TABLE.search(lower) and len(model.info(name).shape) < _CONVOLUTION
    return not (_PLAIN.search(lower) or table)


@dataclass(frozen=True)
class PrunedTensor:
    """How many weights of one tensor stay. threshold: the largest magnitude that was removed."""

    name: str
    weights: int
    kept: int
    threshold: float


@dataclass(frozen=True)
class Pruned:
    """A model of which the smallest weights were set to zero.

    others: tensors that were not pruned. masks: whether the file's metadata hold them. report: how
    the statistics were corrected, if they were.
    """

    model: Path
    method: str
    sparsity: float
    tensors: tuple[PrunedTensor, ...]
    others: int
    masks: bool
    written: Written
    seconds: float
    report: Report | None = None

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def kept(self) -> int:
        return sum(tensor.kept for tensor in self.tensors)

    @property
    def threshold(self) -> float | None:
        """The magnitude that decided, None where each tensor has its own."""
        found = {tensor.threshold for tensor in self.tensors}
        return found.pop() if self.method == "magnitude" and len(found) == 1 else None
