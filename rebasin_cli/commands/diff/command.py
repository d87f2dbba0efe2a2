"""The commands that look and compare: verify, diff, inspect."""

from __future__ import annotations

from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.commands.verify.command import ModelA, ModelB
from rebasin_cli.options import parameters as o
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import options_in

GroupsOf = Annotated[
    str | None,
    options_in(o.SPEC)(
        "--spec", metavar="NAME|FILE", help="Also compare group by group, under this spec."
    ),
]


@t.with_model
@o.sharing(o.READING, o.SHOWING)
def diff(
    ctx: typer.Context,
    a: ModelA,
    b: ModelB,
    spec: GroupsOf = None,
    sizes: o.Sizes = None,
    strict: o.Strict = False,
    only: o.Only = None,
    skip: o.Skip = None,
    pass_through: o.PassThrough = None,
    device: o.Device = "auto",
    max_memory: o.MaxMemory = None,
    verbose: o.Verbose = 0,
) -> None:
    """Compare two checkpoints tensor by tensor. Exit code 0: equal, 1: they differ.

    Prints names, shapes and dtypes that differ, and |A - B| beside |A| for each tensor. With
    --spec or --model also a table of groups as they are, without a matching: how alike their units
    are, and what that means. -v: also how sure it is that each unit's partner is the right one.

    Examples:

        rebasin diff a.pt b.safetensors

        rebasin diff a.pt b.pt --only 'layer4.*' --json

        rebasin diff a.safetensors b.aligned.safetensors --spec mlp -v
    """
    from rebasin_cli.commands.diff.plan import plan_diff
    from rebasin_cli.commands.diff.run import run_diff

    paths = [o.home_path(a), o.home_path(b)]
    deliver(ctx, lambda: plan_diff(paths, options_from(ctx.params)), run_diff)
