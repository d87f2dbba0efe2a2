"""The command `rebasin align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.commands.align.learning import Learning
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.computing import Computing, ExecutorName
from rebasin_cli.options.data import WRITING, WRITTEN, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import model_paths
from rebasin_cli.options.output import Output, SavePermutation
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.search import PANEL, Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.symmetry_option import Tie, symmetry_option
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.presentation.work import Work

Symmetry = Annotated[
    str,
    symmetry_option(
        "REF is folded (see rebasin fold) and written too. auto: whichever comes further above "
        "unrelated weights matched alike; with --data, whose midpoint loses less.",
        classes=("permutation", "orthogonal", "auto"),
    ),
]


Learn = Annotated[
    int,
    option(PANEL)(
        "--learn",
        min=0,
        metavar="N",
        help="With --symmetry orthogonal: then learn the maps in N steps on --data, without "
        "labels, so that the midpoint answers what both models do. 150 is a good number.",
    ),
]

Select = Annotated[
    int | None,
    option(PANEL)(
        "--select",
        min=2,
        metavar="N",
        help="Align in N ways, by weights, by activations and by both, and take the one whose "
        "midpoint loses least on held-out batches of --data. 6 is a good number.",
    ),
]


Widen = Annotated[
    bool,
    option(PANEL)(
        "--widen",
        help="A MODEL narrower than REF first gets REF's widths, its new units zero: see "
        "rebasin widen.",
    ),
]

FIRST = ("models", "out", "save", "card", "verbose", "symmetry", "tie", "learn", "select", "widen")


@with_options(*FIRST, "executor")
def align(
    models: Annotated[list[Path] | None, argument("REF MODEL...")] = None,
    save: SavePermutation = None,
    symmetry: Symmetry = "permutation",
    tie: Tie = "auto",
    learn: Learn = 0,
    select: Select = None,
    executor: ExecutorName = "local",
    widen: Widen = False,
    *,
    selection: Selection,
    output: Output,
    computing: Computing,
    display: Display,
    tracing: Tracing,
    data: Annotated[Data, offer(*WRITING, data=WRITTEN)],
    activations: Activations,
    learning: Learning,
    search: Search,
) -> Work:
    """Permute the units of each MODEL so that it lies in REF's basin. Its function stays the same.

    Writes NAME.aligned.EXT beside each MODEL and prints REF and the new paths: the set that
    now lies in one basin, ready for `rebasin merge` or `rebasin lerp`.

    Examples:

        rebasin align a.safetensors b.safetensors

        rebasin align ref.pt run-*.pt -o aligned/ --spec vgg --save-permutation aligned/

        rebasin align a.pt b.pt | rebasin merge

        rebasin align a.pt b.pt -v

        rebasin align wide.pt narrow.pt --widen | rebasin merge

        rebasin align a.pt b.pt --select 6 --model net.py:Net --data net.py:train

        rebasin align gpt-a/ gpt-b/ --symmetry orthogonal | rebasin merge

        rebasin align gpt-a/ gpt-b/ --symmetry orthogonal --learn 150 --data sampled
    """
    from rebasin_cli.commands.align.request import AlignRequest
    from rebasin_cli.commands.align.symmetries import kind_of
    from rebasin_cli.commands.align.widened_models import check_widening

    request = AlignRequest(
        models=model_paths(models),
        save=save,
        learn=learn,
        select=select,
        tie=tie,
        executor=executor,
        widen=widen,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target, data.own),
        search=search,
        data=data,
        activations=activations,
        learning=learning,
        display=display,
    )
    check_widening(request, kind=symmetry)
    way = kind_of(symmetry, select=select is not None, tie=tie, executor=executor)
    return Work("align", display, planned_by(way.plan, request), way.run, way.presenters)
