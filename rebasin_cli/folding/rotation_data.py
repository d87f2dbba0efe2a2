"""The model and the data that maps are found by: which they are, and what they are run for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from rebasin_cli.alignment.problem import ProblemRequest
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.files.headers import headers_of
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.folding.stream_moments import StreamMoments, stream_moments
from rebasin_cli.folding.tied_heads import untied_network
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.data import Data
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.traced_fit import class_in_config, of_library
from rebasin_cli.tensors import TensorSource

ACTIVATIONS = "activations"


class DataRequest(ProblemRequest, Protocol):
    """What is asked of models that are matched, perhaps on data."""

    @property
    def data(self) -> Data:
        """What they are run on."""


def plan_rotation_code(
    problem: RotationProblem, request: DataRequest, *, reference: int = 0
) -> UserCode:
    """Return the model and the data that maps are found by; a config.json may name the model."""
    model = problem.models[reference].undivided
    tracing = _run_as(model, request.tracing)
    code = plan_user_code(model, request.selection, tracing, request.data, fed=True)
    return replace(code, network=untied_network(code.network, problem.heads))


def _run_as(reference: Checkpoint, tracing: Tracing) -> Tracing:
    """Return which model is run: that of --model, else the one that a config.json names."""
    headers = headers_of([reference])
    found = class_in_config(headers)
    if tracing.target is not None or found is None or importlib.util.find_spec(found[0]) is None:
        return tracing
    return of_library(found[0], headers, tracing)


def describe_data(data: Data, code: UserCode | None) -> dict[str, Any]:
    """Return what a plan says of data, and of how much is drawn from the models, if it is."""
    drawn = code.sequences if code else None
    sampled = {"sampled": {"sequences": drawn.count, "tokens": drawn.length}} if drawn else {}
    return {"data": data.data, **sampled}


def measure_streams(
    problem: RotationProblem,
    code: UserCode,
    folded: Sequence[TensorSource],
    batches: Batches,
    progress: Progress,
) -> StreamMoments:
    """Return what the streams of folded models do on data; all of them are held at once."""
    progress("running the models", 0, 0)
    nets = [build_network(code.network, source, problem.machine) for source in folded]
    return stream_moments(nets, folded, code.network, problem.folding, batches)
