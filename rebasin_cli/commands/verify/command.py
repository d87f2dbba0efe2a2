"""The command `rebasin verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.display import Display
from rebasin_cli.options.output import Output, SavePermutation
from rebasin_cli.options.parameters import argument, offer, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.options.values import home_path
from rebasin_cli.presentation.work import Work


@with_options("a", "b", "save", "force", "verbose")
def verify(
    a: Annotated[Path, argument("A")],
    b: Annotated[Path, argument("B")],
    save: SavePermutation = None,
    *,
    selection: Annotated[Selection, offer(*ALIGNING)],
    output: Annotated[Output, offer("force")],
    computing: Annotated[Computing, offer(*MEANS)],
    display: Display,
    tracing: Tracing,
    search: Search,
) -> Work:
    """Is B exactly A with its units reordered? Exit code 0: yes, 1: no.

    The permutation is searched for under the spec and proved by comparing every tensor, bit
    by bit. If there is none, says how far the best one found is off. With --model both are also
    run on random inputs, and the answer is whether they are the same function.

    Examples:

        rebasin verify a.safetensors b.safetensors

        rebasin verify a.pt b.pt --save-permutation b.perm.safetensors

        rebasin verify a.pt b.pt --model net.py:Net --input-shape 1,3,32,32
    """
    from rebasin_cli.commands.verify.plan import VerifyRequest, plan_verify
    from rebasin_cli.commands.verify.report import PRESENTERS
    from rebasin_cli.commands.verify.run import run_verify

    request = VerifyRequest(
        a=home_path(a),
        b=home_path(b),
        save=save,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target),
        search=search,
    )
    return Work("verify", display, planned_by(plan_verify, request), run_verify, PRESENTERS)
