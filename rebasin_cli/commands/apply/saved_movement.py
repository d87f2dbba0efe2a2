"""A permutation file, or one of maps, read for a model: what it does to that, and that it fits."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.apply.movement import Movement, Reordering, Rotation
from rebasin_cli.files.configs import compare_configs
from rebasin_cli.files.headers import headers_of
from rebasin_cli.files.saved.permutation_file import Saved, read_permutations
from rebasin_cli.folding.map_file import is_map_file, read_maps
from rebasin_cli.options.selection import Selection
from rebasin_cli.permutation import inverse as inverted
from rebasin_cli.spec_choice.unnamed import check_passed, check_unnamed


def read_movement(
    source: Path, model: Checkpoint, *, inverse: bool
) -> tuple[Checkpoint, Movement, Saved]:
    """Return the model as the file expects it, the movement to apply, and the file itself.

    The model differs from the one given where the file's maps were found with untied heads.
    """
    if is_map_file(source):
        found = read_maps(source, model)
        maps = found.maps.inverse() if inverse else found.maps
        return found.model, Rotation(found.folding, maps, found.model.apart), found.saved
    saved = read_permutations(source, model)
    orders = inverted(saved.permutations) if inverse else saved.permutations
    return model, Reordering(saved.bound, orders), saved


def check_saved(saved: Saved, source: Path, model: Checkpoint, selection: Selection) -> None:
    """Raise if the model is another network, or has tensors that the permutation may not know.

    What was unnamed in the model that it was found for could stay there, and can stay here.
    """
    compare_configs([(str(source), saved.config), (str(model.path), model.config)])
    headers = headers_of([model])
    known = selection.passing([*map(escape, saved.passed)])
    check_unnamed(str(source), saved.bound, headers, known)
    check_passed(saved.bound, headers, selection, saved.moving)
