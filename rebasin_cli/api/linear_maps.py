"""Linear maps that a merge saved, applied to models again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from typing import overload

from torch import Tensor

from rebasin_cli.api.running import library_verb
from rebasin_cli.api.tensors_in import Model, ModelInMemory, OutputForm, in_given_form, open_all
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.commands.merge.linear_maps.linear_map_file import ModelMaps, read_linear_maps
from rebasin_cli.files.provenance import provenance
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class LinearMaps:
    """The maps of all models of a merge, in the order in which they were given to it."""

    models: Sequence[ModelMaps]

    def __len__(self) -> int:
        return len(self.models)

    @overload
    def apply(self, model: ModelInMemory, number: int) -> dict[str, Tensor]: ...

    @overload
    def apply(self, model: TensorSource | str | PathLike[str], number: int) -> Checkpoint: ...

    @library_verb
    def apply(self, model: Model, number: int) -> dict[str, Tensor] | Checkpoint:
        """Return a model with the maps applied that the merge used for its model `number`.

        number: counts from 0, in the order of the merge. Units are put in order first, then mapped.
        The result does not compute what the model does: only the mean of all mapped models, with
        the weights of the merge, is the merged model (except for statistics measured anew).
        A state dict or a module gives a state dict; a path gives a checkpoint that is computed as
        it is read. Raises IndexError for a number without maps, PermutationError for a model that
        the maps do not fit.
        """
        (seen,) = open_all([model], Selection(), label="the model")
        form = OutputForm([seen], partial(provenance, "merge", [seen], basin=None), Selection())
        return in_given_form([model], self.models[number].mapped(seen), form)


@library_verb
def load_maps(path: str | PathLike[str]) -> LinearMaps:
    """Return the maps in a file that `rebasin merge --save-maps` wrote.

    Raises PermutationError for a file that is none.
    """
    return LinearMaps(read_linear_maps(named_path(fspath(path))))
