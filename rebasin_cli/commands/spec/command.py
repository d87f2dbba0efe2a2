"""The commands about specs: list, show, check, trace, init."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver, guarded
from rebasin_cli.options import parameters as o
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument
from rebasin_cli.presentation.events import event_line
from rebasin_cli.spec import bundled, load_spec

app = typer.Typer(
    help="List, show, check, trace and start permutation specs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


SpecName = Annotated[str, argument("NAME|FILE")]


@app.command("list")
def list_(json_: o.Json = False) -> None:
    """List the bundled specs: a name and what it is for on each line.

    Example:

        rebasin spec list
    """
    with guarded("spec list", json_wanted=json_):
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
@o.sharing(o.READING)
def check(
    ctx: typer.Context,
    spec: SpecName,
    model: Annotated[Path | None, argument("MODEL")] = None,
    sizes: o.Sizes = None,
    strict: o.Strict = False,
    pass_through: o.PassThrough = None,
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
    from rebasin_cli.commands.spec.check.plan import plan_check
    from rebasin_cli.commands.spec.check.run import run_check

    path = o.home_path(model) if model else None
    deliver(ctx, lambda: plan_check(spec, path, options_from(ctx.params)), run_check)


@app.command()
@t.with_inputs
def trace(
    ctx: typer.Context,
    target: Annotated[str, argument("TARGET")],
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what moves, what does not, and why.")
    ] = False,
    out: o.Out = None,
    force: o.Force = False,
    no_clobber: o.NoClobber = False,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    no_progress: o.NoProgress = False,
) -> None:
    """Find the complete symmetry of a PyTorch model, prove it by running, and print its spec.

    TARGET is file.py:Class, pkg.mod:Class, torchvision:NAME, timm:NAME, hf:FOLDER or
    diffusers:FOLDER. No checkpoint is needed. The model is run with every group permuted at
    random; what changes its outputs is taken out again, and said.

    Examples:

        rebasin spec trace net.py:Net --input-shape 1,3,32,32 > net.yaml

        rebasin spec trace torchvision:resnet50 --explain

        rebasin spec trace hf:llama/ -o llama.yaml
    """
    from rebasin_cli.commands.spec.trace.plan import plan_trace
    from rebasin_cli.commands.spec.trace.run import run_trace

    deliver(ctx, lambda: plan_trace(options_from(ctx.params), explain=explain), run_trace)


@app.command()
@o.sharing(o.READING)
def init(
    ctx: typer.Context,
    model: Annotated[Path, argument("MODEL")],
) -> None:
    """Print a spec to start from: every tensor of MODEL, layers folded, all axes still fixed.

    Example:

        rebasin spec init model.safetensors > my.yaml
    """
    with guarded("spec init"):
        from rebasin_cli.checkpoint import open_checkpoint
        from rebasin_cli.spec import draft
        from rebasin_cli.tensors import infos

        reading = options_from(ctx.params).reading(1)
        with open_checkpoint(o.home_path(model), reading=reading) as checkpoint:
            print(draft(infos(checkpoint)), end="")


def list_lines(*, json: bool) -> Iterator[str]:
    """Yield one line a bundled spec: its name and what it is for, or an event."""
    for name in bundled():
        description = load_spec(name).description or ""
        if json:
            yield event_line("result", "spec list", {"name": name, "description": description})
        else:
            yield f"{name}\t{description}"
