"""How permutations are searched for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.options.parameters import flags_in
from rebasin_cli.wording import listing

PANEL = "Search"
_option = flags_in(PANEL)

METHODS = ("auto", "weights", "frank-wolfe", "sinkhorn")  # of all commands that align
# Methods that few commands have, which say so themselves, and who these are.
OF_SOME = {
    "activations": "align, transport and merge have it",
    "straight-through": "align has it",
    **dict.fromkeys(("zipit", "cca", "least-squares"), "merge has it"),
}


def _method(name: str) -> str:
    """Return a name of a method as it is. Raises UsageError at once, without torch, for another."""
    known = (*METHODS, *OF_SOME)
    if name not in known:
        near = suggest(name, known)
        few = [f" ({who})" for method, who in OF_SOME.items() if repr(method) in near]
        more = "--help says which more there are; ties, dare and the like are for merge --combine"
        hint = "".join([near, *few]) or f"{listing(METHODS)}; {more}"
        raise UsageError(f"no method is called {name!r}", hint=hint)
    return name


@dataclass(frozen=True)
class Search:
    """How permutations are searched for; the words are those of `problem.settings.Settings`.

    start: a name, or for align a permutation file; None: the usual ones. restarts: random starts
    that are tried besides.
    """

    effort: str = _option(
        "--effort",
        default="default",
        metavar="quick|default|best",
        help="quick: one descent. default: more than one way where that costs seconds. "
        "best: every way, and random starts.",
    )
    method: str = _option(
        "--method",
        default="auto",
        parse=_method,
        metavar="auto|weights|frank-wolfe|sinkhorn|...",
        help="weights: one group after another. frank-wolfe: all groups at once, softly. "
        "sinkhorn: by gradients. auto: the first two, as the effort allows. align also has two "
        "that run the models on --data: activations (merge --symmetry orthogonal too) and "
        "straight-through; merge has zipit, cca and least-squares.",
    )
    start: str | None = _option(
        "--start",
        metavar="NAME|FILE",
        help="Where the search starts: descriptor, identity, random, with frank-wolfe or sinkhorn "
        "barycenter; for align also a permutation file. Default: as the effort says.",
    )
    restarts: int = _option(
        "--restarts", default=0, min=0, help="Random starts to try besides the usual."
    )
    order: str = _option(
        "--order",
        default="random",
        metavar="random|forward|backward|alternate",
        help="In which groups are visited first.",
    )
    loss: str = _option(
        "--loss", default="l2", metavar="l2|l1", help="Of sinkhorn; l1 makes less of outliers."
    )
    fast: bool = _option("--fast", default=False, help="On a GPU: products in tf32.")

    @property
    def start_file(self) -> Path | None:
        """The permutation file that --start names, if it looks like a path."""
        if self.start is None or not ("." in self.start or "/" in self.start):
            return None
        return named_path(self.start)
