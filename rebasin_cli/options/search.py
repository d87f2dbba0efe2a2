"""The options that say how permutations are searched for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.options.extend import extended, options_in

if TYPE_CHECKING:
    from rebasin_cli.options.groups import Searching

PANEL = "Search"
_option = options_in(PANEL)

Effort = Annotated[
    str,
    _option(
        "--effort",
        metavar="quick|default|best",
        help="quick: one descent. default: more than one way where that costs seconds. "
        "best: every way, and random starts.",
    ),
]
Method = Annotated[
    str,
    _option(
        "--method",
        metavar="auto|weights|frank-wolfe|sinkhorn",
        help="weights: one group after another. frank-wolfe: all groups at once, softly. "
        "sinkhorn: by gradients. auto: the first two, as the effort allows. align also has two "
        "that run the models on --data: activations and straight-through; merge has zipit and cca.",
    ),
]
Loss = Annotated[
    str, _option("--loss", metavar="l2|l1", help="Of sinkhorn; l1 makes less of outliers.")
]
Order = Annotated[
    str,
    _option(
        "--order",
        metavar="random|forward|backward|alternate",
        help="In which groups are visited first.",
    ),
]
Start = Annotated[
    str | None,
    _option(
        "--start",
        metavar="NAME|FILE",
        help="Where the search starts: descriptor, identity, random, with frank-wolfe or sinkhorn "
        "barycenter; for align also a permutation file. Default: as the effort says.",
    ),
]
Restarts = Annotated[
    int, _option("--restarts", min=0, help="Random starts to try besides the usual.")
]
Fast = Annotated[bool, _option("--fast", help="On a GPU: products in tf32.")]

_OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "effort": (Effort, "default"),
    "method": (Method, "auto"),
    "start": (Start, None),
    "restarts": (Restarts, 0),
    "order": (Order, "random"),
    "loss": (Loss, "l2"),
    "fast": (Fast, False),
}


def with_search(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has the options about searching, to be read from its context."""
    return extended(command, _OPTIONS)


def searching_from(params: Mapping[str, Any]) -> Searching:
    """Return what a command's parameters say about searching."""
    from rebasin_cli.options.groups import Searching

    said = {name: params[name] for name in _OPTIONS if name in params and name != "start"}
    start = params.get("start")
    return Searching(**said, starts=(start,) if start else None)
