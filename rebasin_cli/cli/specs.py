"""The commands about specs: list, show, check, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli.deliver import deliver, guarded

app = typer.Typer(
    help="List, show, check and start permutation specs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecName = Annotated[str, typer.Argument(metavar="NAME|FILE")]


@app.command("list")
def list_(json_: o.Json = False) -> None:
    """List the bundled specs: a name and what it is for on each line.

    Example:

        rebasin spec list
    """
    with guarded("spec list", json_wanted=json_):
        from rebasin_cli.report.specs import list_lines

        for line in list_lines(json=json_):
            print(line)


@app.command()
def show(spec: SpecName) -> None:
    """Print a spec: a bundled one as it is shipped, or a file.

    Example:

        rebasin spec show resnet-basic > my-resnet.yaml
    """
    with guarded("spec show"):
        from rebasin_cli.spec import spec_text

        print(spec_text(spec), end="")


@app.command()
def check(
    ctx: typer.Context,
    spec: SpecName,
    model: Annotated[Path | None, typer.Argument(metavar="MODEL")] = None,
    sizes: o.Sizes = None,
    key: o.Key = None,
    strict: o.Strict = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check a spec by itself, or against the headers of MODEL. Exit code 0: valid, 1: not.

    With MODEL prints a line for each group: name, size, and the tensors it moves. All
    problems are reported at once, as file:line:column.

    Examples:

        rebasin spec check my.yaml

        rebasin spec check my.yaml model.safetensors --set heads=12
    """
    from rebasin_cli.plan.check import plan_check
    from rebasin_cli.run.check import run_check

    path = o.home_path(model) if model else None
    deliver(ctx, lambda: plan_check(spec, path, o.options_from(ctx.params)), run_check)


@app.command()
def init(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    key: o.Key = None,
) -> None:
    """Print a spec to start from: every tensor of MODEL, layers folded, all axes still fixed.

    Example:

        rebasin spec init model.safetensors > my.yaml
    """
    with guarded("spec init"):
        from rebasin_cli.checkpoint import open_checkpoint
        from rebasin_cli.spec import draft
        from rebasin_cli.tensors import infos

        with open_checkpoint(o.home_path(model), key=key) as checkpoint:
            print(draft(infos(checkpoint)), end="")
