"""The commands that write models: align, merge, lerp, apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli.deliver import deliver

Save = Annotated[
    Path | None,
    typer.Option(
        "--save-permutation",
        metavar="FILE",
        rich_help_panel=o.FILES,
        help="Also write the permutation; a folder for several models.",
    ),
]


def align(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, typer.Argument(metavar="REF MODEL...")] = None,
    out: o.Out = None,
    save: Save = None,
    spec: o.Spec = None,
    sizes: o.Sizes = None,
    strict: o.Strict = False,
    only: o.Only = None,
    skip: o.Skip = None,
    key: o.Key = None,
    format: o.Format = None,
    dtype: o.Dtype = "keep",
    force: o.Force = False,
    no_clobber: o.NoClobber = False,
    in_place: o.InPlace = False,
    device: o.Device = "auto",
    jobs: o.Jobs = 0,
    max_memory: o.MaxMemory = None,
    seed: o.Seed = 0,
    restarts: o.Restarts = 0,
    start: o.Start = None,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    no_progress: o.NoProgress = False,
) -> None:
    """Permute the units of each MODEL so that it lies in REF's basin. Its function stays the same.

    Writes NAME.aligned.EXT beside each MODEL and prints REF and the new paths: the set that
    now lies in one basin, ready for `rebasin merge` or `rebasin lerp`.

    Examples:

        rebasin align a.safetensors b.safetensors

        rebasin align ref.pt run-*.pt -o aligned/ --spec vgg --save-permutation aligned/

        rebasin align a.pt b.pt | rebasin merge
    """
    from rebasin_cli.plan.align import plan_align
    from rebasin_cli.run.align import run_align

    deliver(
        ctx,
        lambda: plan_align(
            o.model_paths(models),
            o.options_from(ctx.params),
            save=save,
            start=o.start_file(start),
        ),
        run_align,
    )


def merge(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, typer.Argument(metavar="MODEL...")] = None,
    out: o.Out = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="star|many|none",
            rich_help_panel=o.MEANS,
            help="Align to the reference, to all others in turn, or not; default: many up to 8.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", "-w", metavar="LIST", rich_help_panel=o.MEANS, help="One for each MODEL."
        ),
    ] = None,
    ref: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", rich_help_panel=o.MEANS, help="Whose order to keep; default: the first."
        ),
    ] = None,
    null: o.Null = False,
    spec: o.Spec = None,
    sizes: o.Sizes = None,
    strict: o.Strict = False,
    only: o.Only = None,
    skip: o.Skip = None,
    key: o.Key = None,
    format: o.Format = None,
    dtype: o.Dtype = "keep",
    force: o.Force = False,
    no_clobber: o.NoClobber = False,
    in_place: o.InPlace = False,
    device: o.Device = "auto",
    jobs: o.Jobs = 0,
    max_memory: o.MaxMemory = None,
    seed: o.Seed = 0,
    restarts: o.Restarts = 0,
    start: o.Start = None,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    no_progress: o.NoProgress = False,
) -> None:
    """Align the MODELs to one another and average them into one checkpoint.

    Reads paths from stdin if no MODEL is given. Models that `rebasin align` brought into one
    basin are only averaged. The result is divided by the sum of the weights; integer tensors
    are those of the reference.

    Examples:

        rebasin merge run-*/model.safetensors -o soup.safetensors

        rebasin merge a.pt b.pt c.pt -w 0.5,0.3,0.2 --strategy star

        find runs -name '*.pt' -print0 | rebasin merge -0 -o soup.pt
    """
    from rebasin_cli.plan.merge import plan_merge
    from rebasin_cli.run.merge import run_merge

    deliver(
        ctx,
        lambda: plan_merge(
            o.piped_paths(models, null),
            o.options_from(ctx.params),
            strategy=strategy,
            weights=o.parse_numbers(weights),
            reference=ref,
        ),
        run_merge,
    )


def lerp(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, typer.Argument(metavar="A B")] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="N points inside: alpha = k/(N+1), so 99 gives 0.01..0.99."),
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option(metavar="LIST", help="These points instead, as 0.25,0.5.")
    ] = None,
    endpoints: Annotated[bool, typer.Option("--endpoints", help="The ends too.")] = False,
    mode: Annotated[
        str, typer.Option(metavar="linear|slerp", help="Along the line, or each tensor's arc.")
    ] = "linear",
    align: Annotated[bool, typer.Option("--align", help="Align B to A first.")] = False,
    chain: Annotated[
        bool, typer.Option("--chain", help="More than two models: alpha runs from 0 to their end.")
    ] = False,
    exec_: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Run this on each point, as 'python eval.py {path} {alpha}'; its last line counts.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the files that --exec was run on.")
    ] = False,
    out: o.Out = None,
    null: o.Null = False,
    spec: o.Spec = None,
    sizes: o.Sizes = None,
    strict: o.Strict = False,
    only: o.Only = None,
    skip: o.Skip = None,
    key: o.Key = None,
    format: o.Format = None,
    dtype: o.Dtype = "keep",
    force: o.Force = False,
    no_clobber: o.NoClobber = False,
    in_place: o.InPlace = False,
    device: o.Device = "auto",
    jobs: o.Jobs = 0,
    max_memory: o.MaxMemory = None,
    seed: o.Seed = 0,
    restarts: o.Restarts = 0,
    start: o.Start = None,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    no_progress: o.NoProgress = False,
) -> None:
    """Interpolate between A and B: (1 - alpha) A + alpha B, one checkpoint for each point.

    Reads paths from stdin if no MODEL is given. With --exec a file is removed as soon as the
    command has seen it, so a curve of 99 points takes the disk of one model, and stdout has
    one line a point: alpha, a tab, and what the command said.

    Examples:

        rebasin align a.pt b.pt | rebasin lerp --steps 99

        rebasin lerp a.pt b.pt --align --at 0.5 -o midpoint.pt

        rebasin lerp a.pt b.pt --steps 9 --endpoints --exec 'python eval.py {path}' --json
    """
    from rebasin_cli.plan.lerp import plan_lerp
    from rebasin_cli.run.lerp import run_lerp

    deliver(
        ctx,
        lambda: plan_lerp(
            o.piped_paths(models, null),
            o.options_from(ctx.params),
            steps=steps,
            at=o.parse_numbers(at),
            endpoints=endpoints,
            mode=mode,
            align=align,
            chain=chain,
            command=exec_,
            keep=keep,
        ),
        run_lerp,
    )


def apply(
    ctx: typer.Context,
    permutation: Annotated[Path, typer.Argument(metavar="PERM")],
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    inverse: Annotated[bool, typer.Option("--inverse", help="Undo the permutation.")] = False,
    out: o.Out = None,
    key: o.Key = None,
    format: o.Format = None,
    dtype: o.Dtype = "keep",
    force: o.Force = False,
    no_clobber: o.NoClobber = False,
    in_place: o.InPlace = False,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    no_progress: o.NoProgress = False,
) -> None:
    """Apply a saved permutation to a checkpoint with the same tensors.

    For EMA weights, other dtypes and other stages of the model the permutation was found for.
    Writes NAME.permuted.EXT. Exact: --inverse gives back the same bytes.

    Examples:

        rebasin align a.pt b.pt --save-permutation b.perm.safetensors

        rebasin apply b.perm.safetensors b-ema.pt

        rebasin apply b.perm.safetensors b-ema.permuted.pt --inverse -o back.pt
    """
    from rebasin_cli.plan.apply import plan_apply
    from rebasin_cli.run.apply import run_apply

    deliver(
        ctx,
        lambda: plan_apply(
            permutation.expanduser(),
            model.expanduser(),
            o.options_from(ctx.params),
            inverted=inverse,
        ),
        run_apply,
    )


COMMANDS = (align, merge, lerp, apply)
