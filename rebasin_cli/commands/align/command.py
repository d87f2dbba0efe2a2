"""The command `rebasin align`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rebasin_cli.commands.align.learning import Learning
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.computing import Computing, executor_option
from rebasin_cli.options.data import WRITING, WRITTEN, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import models_argument
from rebasin_cli.options.output import Output, save_permutation_option
from rebasin_cli.options.parameters import flags_in, options_of, with_options
from rebasin_cli.options.search import PANEL, Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.symmetry_option import symmetry_option, tie_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.presentation.work import Work

STRAIGHT_THROUGH = "straight-through"  # the method that learns permutations
_option = flags_in(PANEL)


@dataclass(frozen=True)
class AlignRequest:
    """What is to be aligned, and how.

    models: the reference, then what is brought into its basin. save: a file for the permutation,
    or a folder for several. symmetry: of the maps. tie: what becomes of tied heads where norms are
    folded, see `settle_heads`. learn: steps by which maps are learned from the midpoint's answers.
    select: how many ways are tried, of which the one with the best midpoint is taken; None: one.
    executor: who aligns the models. widen: models narrower than the reference get its widths.
    """

    models: Sequence[Path] = models_argument("REF MODEL...")
    save: str | None = save_permutation_option()
    symmetry: str = symmetry_option(
        "REF is folded (see rebasin fold) and written too. auto: whichever comes further above "
        "unrelated weights matched alike; with --data, whose midpoint loses less.",
        classes=("permutation", "orthogonal", "auto"),
    )
    tie: str = tie_option()
    learn: int = _option(
        "--learn",
        default=0,
        min=0,
        metavar="N",
        help="With --symmetry orthogonal: then learn the maps in N steps on --data, without "
        "labels, so that the midpoint answers what both models do. 150 is a good number.",
    )
    select: int | None = _option(
        "--select",
        min=2,
        metavar="N",
        help="Align in N ways, by weights, by activations and by both, and take the one whose "
        "midpoint loses least on held-out batches of --data. 6 is a good number.",
    )
    executor: str = executor_option()
    widen: bool = _option(
        "--widen",
        default=False,
        help="A MODEL narrower than REF first gets REF's widths, its new units zero: see "
        "rebasin widen.",
    )
    selection: Selection = options_of(Selection)
    output: Output = options_of(Output)
    computing: Computing = options_of(Computing)
    display: Display = options_of(Display)
    tracing: Tracing = options_of(Tracing)
    data: Data = options_of(Data, *WRITING, data=WRITTEN)
    activations: Activations = options_of(Activations)
    learning: Learning = options_of(Learning)
    search: Search = options_of(Search)

    @property
    def finished(self) -> Path | None:
        """The file of --resume, if it lists what is finished: not where maps are learned."""
        learns = self.learn or self.search.method == STRAIGHT_THROUGH
        return None if learns else self.learning.resume

    @property
    def learning_options(self) -> Learning:
        """The options of learning, without a file that only lists what is finished."""
        return replace(self.learning, resume=None) if self.finished else self.learning


FIRST = ("models", "out", "save", "card", "verbose", "symmetry", "tie", "learn", "select", "widen")


@with_options(*FIRST, "executor")
def align(request: AlignRequest) -> Work:
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
    from rebasin_cli.commands.align.symmetries import kind_of
    from rebasin_cli.commands.align.widened_models import check_widening

    check_widening(request)
    kind = kind_of(request)
    plan = tracing_plan(kind.plan, request, data=request.data.own)
    return Work("align", request.display, plan, kind.run, kind.presenters)
