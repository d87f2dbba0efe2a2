"""The plan of `rebasin widen`: which groups get how many units, and what is run to prove it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.problem import warn_idle
from rebasin_cli.checkpoint.endings import format_of
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.widen.command import WidenRequest
from rebasin_cli.errors import SpecError, UsageError
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.models.libraries.config_json import SCHEMES
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from rebasin_cli.widening.growth import plan_growth
from rebasin_cli.widening.wide_models import open_wide, wider_model
from rebasin_cli.widening.wider_checkpoint import WiderCheckpoint
from rebasin_cli.widening.wider_proof import WiderCheck, plan_wider_check
from rebasin_cli.widening.wider_sizes import is_size, said_sizes, sizes_of

_WIDTHS = "--to GROUP=N, --to GROUP=2x, or --to MODEL as wide as that"


@dataclass(frozen=True)
class WidenPlan:
    """All that `run_widen` needs. spec: its name. like: the model whose widths are taken, if any.

    check: both models, if they are at hand.
    """

    wide: WiderCheckpoint
    spec: str
    like: Checkpoint | None
    target: Target
    check: WiderCheck | None
    request: WidenRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "widen",
            "inputs": describe_inputs([self.wide.narrow]),
            "spec": self.spec,
            "groups": {name: list(sizes) for name, sizes in self.wide.growth.sizes.items()},
            "config": dict(self.wide.settings),
            "outputs": [describe_target(self.target)],
        }


def plan_widen(request: WidenRequest) -> WidenPlan:
    """Return what widening will do; nothing is read but headers.

    Raises UsageError for groups that cannot be widened, with the reason of each.
    """
    selection = request.selection
    (model,) = open_models([request.model], selection)
    refuse_codes([model], selection, done="multiplied")
    choice = choose_spec([model], selection, tracing=request.tracing.unless(selection.spec))
    like = _like(model, request)
    sizes = _sizes(choice, like, request)
    growth = plan_growth(choice.bound, sizes, choice.movable, model.names())
    if not (model.config or request.tracing.target):
        warn_idle(
            {"--wide-args": request.wide_arguments}, "neither --model nor a config.json is there"
        )
    if not growth.sizes:
        raise UsageError(f"{model.path} is as wide already", hint="use it as it is")
    (out,) = output_paths([model], request.output, word="widened")
    wide = wider_model(
        model,
        choice.bound,
        growth,
        selection,
        like=like,
        arguments=request.wide_arguments if _says_config(request) else None,
        needed=format_of(out) is None,
    )
    folder = request.output.names_folder
    target = plan_target(out, wide, selection, request.output, own=[wide], create=folder)
    check = plan_wider_check(
        wide, request, choice=choice, arguments={**wide.settings, **request.wide_arguments}
    )
    return WidenPlan(wide, choice.name, like, target, check, request)


def _says_config(request: WidenRequest) -> bool:
    """Return whether --wide-args is what a config.json says, and not for a class of the user's."""
    target = request.tracing.target
    return target is None or target.partition(":")[0] in SCHEMES


def _like(model: Checkpoint, request: WidenRequest) -> Checkpoint | None:
    """Return the model whose widths are taken, if --to names one."""
    paths = [text for text in request.to if not is_size(text)]
    for text in paths:
        if "=" in text and "://" not in text and not Path(text).exists():
            raise UsageError(f"--to {text} says no number of units", hint=_WIDTHS)
    if not request.to or len(paths) > 1:
        what = f"{len(paths)} models to be as wide as" if paths else "nothing says how wide"
        raise UsageError(what, hint=_WIDTHS)
    return open_wide(paths[0], request.selection, model) if paths else None


def _sizes(choice: Choice, like: Checkpoint | None, request: WidenRequest) -> Mapping[str, int]:
    """Return the new sizes of groups; what is said by name comes before those of a model."""
    taken = _taken(choice, like, request) if like else {}
    return {**taken, **said_sizes(choice.bound, [text for text in request.to if is_size(text)])}


def _taken(choice: Choice, like: Checkpoint, request: WidenRequest) -> Mapping[str, int]:
    """Return the sizes of groups in another model.

    A trace may have the number of heads in it: then the wider class, or what the other one's
    config.json says, is traced as well.
    """
    try:
        return sizes_of(choice.bound, like, request.selection)
    except SpecError:
        tracing = request.tracing.unless(request.selection.spec)
        if choice.traced is None or not (like.config or request.wide_arguments):
            raise
    arguments = {**tracing.arguments, **request.wide_arguments}
    own = choose_spec([like], request.selection, tracing=replace(tracing, arguments=arguments))
    sizes = {name: group.size for name, group in own.bound.groups.items()}
    return {name: sizes[name] for name in choice.bound.groups if name in sizes}
