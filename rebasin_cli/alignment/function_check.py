"""Whether a model can be run to see that its function stays, and which: before any work.

The proof of a spec is that permuting changes no output. Where the model itself can be built, the
same is looked at for the checkpoints at hand: a config.json that lies, or weights that a program
reads in another way than the spec says, show here and nowhere else.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Protocol

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import RebasinError, UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.network.network import Network, named_network, plan_network
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.spec_choice.traced_fit import Fitted, class_in_config, of_library

# Elements up to which a model is run unless asked not to: building and running one takes seconds.
USUAL = 150_000_000


@dataclass(frozen=True)
class FunctionCheck:
    """A model to run with two checkpoints.

    required: one that does not run is an error. outputs: to compare; none: what its user looks at.
    """

    network: Network
    required: bool
    outputs: tuple[str, ...] = ()


class FunctionCheckRequest(Protocol):
    """What is asked of a model that may be run."""

    @property
    def selection(self) -> Selection:
        """Which tensors take part."""

    @property
    def computing(self) -> Computing:
        """Whether it is to be run."""

    @property
    def tracing(self) -> Tracing:
        """Which model it is."""


def plan_function_check(
    model: Checkpoint, request: FunctionCheckRequest, *, choice: Choice | None = None
) -> FunctionCheck | None:
    """Return the model to check with that permuting a checkpoint keeps its function, if any.

    It is the one that --model names, or that the config.json beside the weights does, if its
    library is installed. Without --check only models of the usual size are run, none that --trust
    is said of, and one of a config.json that cannot be built is let be; with it, that raises.
    """
    tracing, wanted = request.tracing, request.computing.check
    if wanted is False or tracing.free_outputs:
        return None
    elements = sum(model.info(name).numel for name in model.names())
    required = bool(wanted) or tracing.target is not None
    if wanted is None and (elements > USUAL or tracing.trust):
        return None
    if choice is not None and choice.traced is not None:
        return check_of(choice.traced, required=required)
    try:
        return _from_class(model, request.selection, tracing, wanted=bool(wanted))
    except RebasinError:
        if required:
            raise
        return None


def check_of(fitted: Fitted, *, required: bool = True) -> FunctionCheck:
    """Return the check with a model that was traced: the outputs that it keeps are compared."""
    network = named_network(fitted.tracing, fitted.layout.windows)
    return FunctionCheck(network, required, fitted.known.trace.outputs)


def _from_class(
    model: Checkpoint, selection: Selection, tracing: Tracing, *, wanted: bool
) -> FunctionCheck | None:
    """Return the check that builds the model of --model or a config.json; None without either."""
    if tracing.target is not None:
        return FunctionCheck(plan_network(model, selection, tracing), required=True)
    headers = headers_of([model])
    found = class_in_config(headers)
    if found is None or importlib.util.find_spec(found[0]) is None:
        if wanted:
            what = "nothing says which model to check with" if found is None else "cannot check"
            hint = "--model TARGET" if found is None else f"pip install {found[0]}"
            raise UsageError(what, where=str(model.path), hint=hint)
        return None
    network = plan_network(model, selection, of_library(found[0], headers, tracing))
    return FunctionCheck(network, required=wanted)
