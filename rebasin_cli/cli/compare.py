"""The commands that look and compare: verify, diff, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli import searching as s
from rebasin_cli.cli import tracing as t
from rebasin_cli.cli.chosen import options_from
from rebasin_cli.cli.deliver import deliver
from rebasin_cli.cli.extend import argument, options_in

ModelA = Annotated[Path, argument("A")]
ModelB = Annotated[Path, argument("B")]
GroupsOf = Annotated[
    str | None,
    options_in(o.SPEC)(
        "--spec", metavar="NAME|FILE", help="Also compare group by group, under this spec."
    ),
]


@s.with_search
@t.with_model
@o.sharing(o.SELECTING, o.COMPUTING, o.SHOWING)
def verify(
    ctx: typer.Context,
    a: ModelA,
    b: ModelB,
    save: o.Save = None,
    force: o.Force = False,
    verbose: o.Verbose = 0,
) -> None:
    """Is B exactly A with its units reordered? Exit code 0: yes, 1: no.

    The permutation is searched for under the spec and proved by comparing every tensor, bit
    by bit. If there is none, says how far the best one found is off. With --model both are also
    run on random inputs, and the answer is whether they are the same function.

    Examples:

        rebasin verify a.safetensors b.safetensors

        rebasin verify a.pt b.pt --save-permutation b.perm.safetensors

        rebasin verify a.pt b.pt --model net.py:Net --input-shape 1,3,32,32
    """
    from rebasin_cli.plan.apply import plan_verify
    from rebasin_cli.run.apply import run_verify

    paths = o.home_path(a), o.home_path(b)
    deliver(ctx, lambda: plan_verify(*paths, options_from(ctx.params), save=save), run_verify)


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
    from rebasin_cli.plan.diff import plan_diff
    from rebasin_cli.run.inspect import run_diff

    paths = [o.home_path(a), o.home_path(b)]
    deliver(ctx, lambda: plan_diff(paths, options_from(ctx.params)), run_diff)


@o.sharing(o.READING, o.SHOWING)
def inspect(
    ctx: typer.Context,
    models: Annotated[list[Path], argument("MODEL...")],
    only: o.Only = None,
    skip: o.Skip = None,
    sizes: o.Sizes = None,
) -> None:
    """Show what is in a checkpoint: tensors, dtypes, ties, size, and which bundled spec fits.

    Reads headers only.

    Examples:

        rebasin inspect model.safetensors

        rebasin inspect llama/ --json | jq .parameters
    """
    from rebasin_cli.plan.look import plan_look
    from rebasin_cli.run.inspect import run_inspect

    paths = o.model_paths(models)
    deliver(ctx, lambda: plan_look(paths, options_from(ctx.params)), run_inspect)


COMMANDS = (verify, diff, inspect)
