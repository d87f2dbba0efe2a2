"""Which batches maps and masks are learned from, and which are held out to judge models on."""

from __future__ import annotations

from itertools import islice

from rebasin_cli.commands.transport.command import LAYERWISE, TransportRequest
from rebasin_cli.folding.rotation_data import ACTIVATIONS
from rebasin_cli.models.user.batch_inputs import is_labelled
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.data_split import DataSplit

HELD_OUT = 0.5  # of the batches, where a scale is chosen on them, or models are judged


def learns_from_data(request: TransportRequest) -> bool:
    """Return whether something of the data gets into what is carried, its scale aside."""
    return request.masked or request.map == LAYERWISE or request.search.method == ACTIVATIONS


def split_for(request: TransportRequest, batches: Batches) -> DataSplit | None:
    """Return what of the data is held out from maps and masks; None: nothing.

    That is where a scale is chosen on it, and where models are judged on labelled batches of
    which there are two.
    """
    split = DataSplit(batches, HELD_OUT)
    if request.scale is None:
        return split
    if not learns_from_data(request) or request.data.evaluate is not None:
        return None
    first = list(islice(batches, 2))
    return split if len(first) == 2 and is_labelled(first[0]) else None


def learned_batches(request: TransportRequest, batches: Batches) -> Batches:
    """Return the batches that maps and masks may be learned from."""
    split = split_for(request, batches)
    return batches if split is None else split.learned_batches()
