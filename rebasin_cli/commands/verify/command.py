"""The commands that look and compare: verify, diff, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options import search as s
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument

ModelA = Annotated[Path, argument("A")]


ModelB = Annotated[Path, argument("B")]


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
    from rebasin_cli.commands.verify.plan import plan_verify
    from rebasin_cli.commands.verify.run import run_verify

    paths = o.home_path(a), o.home_path(b)
    deliver(ctx, lambda: plan_verify(*paths, options_from(ctx.params), save=save), run_verify)
