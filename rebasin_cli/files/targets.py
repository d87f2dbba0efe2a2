"""Where results go, and whether they may: decided before anything is read or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.checkpoint.endings import format_of, is_weight_name, of_weights
from rebasin_cli.checkpoint.layout import Layout, in_shards, layout_for
from rebasin_cli.checkpoint.parts import Fate
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.files.part_sources import plan_rest
from rebasin_cli.files.places import OutputPlace, files_of, plan_place
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import TensorInfo

FORMATS = {"safetensors": ".safetensors", "pt": ".pt"}


KEEP = "keep"  # --dtype that leaves dtypes as they are


DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Target:
    """One result: where it goes, in which form, and what becomes of the rest of a file like it.

    card: where its model card goes, if one is wanted: in the folder, or beside the file. text:
    of the card, once it is known.
    """

    place: OutputPlace
    layout: Layout
    fate: Fate = field(default_factory=Fate)
    card: OutputPlace | None = None
    text: str = ""

    @property
    def path(self) -> Path:
        return self.place.path

    @property
    def again(self) -> Target:
        """This target where it may be written twice, see `OutputPlace`."""
        return replace(self, place=self.place.again, card=self.card and self.card.again)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is written: the result, and its card."""
        return (self.path, self.card.path) if self.card else (self.path,)


def plan_format(output: Output, out: Path | None = None) -> str | None:
    """Return the format asked for by --format or the ending of `out`; None: keep the input's."""
    if output.format is not None and output.format not in FORMATS:
        raise UsageError(f"no format is called {output.format!r}", hint="safetensors or pt")
    if out and of_weights(out.name) and not is_weight_name(out.name):
        raise UsageError(
            f"{out} has the ending of another program's files, and would be none of them",
            hint="name it to end in .safetensors or .pt",
        )
    ended = format_of(out) if out else None
    if output.format and ended and ended != output.format:
        raise UsageError(
            f"--format {output.format} contradicts the ending of {out}",
            hint="leave out --format, or name the output accordingly",
        )
    return output.format or ended


def check_ending(path: Path) -> None:
    """Raise UsageError if a file of the program's own would be refused when it is read again.

    Permutations, statistics and states of learning are safetensors files.
    """
    if format_of(path) == "pt":
        raise UsageError(
            f"{path} would be a safetensors file, and its ending is that of another",
            hint="name it to end in .safetensors",
        )


def plan_target(
    path: Path,
    like: Checkpoint,
    selection: Selection,
    output: Output,
    *,
    own: Sequence[Checkpoint],
    others: Sequence[Path] = (),
    create: bool = False,
) -> Target:
    """Return how one result made like `like` will be written; raises as `plan_place` does.

    own: the models the result is made of, which it may replace with --in-place.
    """
    if output.dtype != KEEP and output.dtype not in DTYPES:
        raise UsageError(
            f"no dtype is called {output.dtype!r}", hint=f"{KEEP}, {', '.join(DTYPES)}"
        )
    format = plan_format(output, path)
    layout = layout_for(like.layout, format) if format else like.layout
    layout = replace(layout, ties=common_ties(like, own, selection))
    layout, fate = plan_rest(layout, like, own, selection, output)
    if output.max_shard_size is not None:
        infos = output_infos(like, layout, selection, output)
        layout = _in_shards(layout, infos, output.max_shard_size, path)
    mine = [file for model in own for file in files_of(model)]
    place = plan_place(path, output, own=mine, others=others, create=create)
    return Target(place, layout, fate, _plan_card(path, layout, output, create=create))


def _in_shards(layout: Layout, infos: Sequence[TensorInfo], most: int, path: Path) -> Layout:
    """Return the layout of a folder of shards. Raises UsageError where there can be none."""
    what = "--max-shard-size writes a folder of safetensors files"
    if layout.format != "safetensors":
        raise UsageError(f"{what}, and this model is none", hint="--format safetensors")
    if format_of(path) or path.is_file():
        raise UsageError(f"{what}, and {path} is a file", hint=f"-o {path.stem}/")
    return in_shards(layout, infos, most, path)


def _plan_card(path: Path, layout: Layout, output: Output, *, create: bool) -> OutputPlace | None:
    """Return where the model card of a result goes, None if none is wanted.

    That of a folder is its README.md, instead of the one that would be copied: it tells of
    another model. One that is in the place of the result already goes with --force alone.
    """
    if output.card is None:
        return None
    if layout.folder is None:
        beside = replace(output, no_clobber=False)
        return plan_place(path.with_suffix(".card.md"), beside, create=create)
    readme = path / "README.md"
    if readme.exists() and not output.force and not output.no_clobber:
        raise UsageError(
            f"--card would replace {readme}", hint="--force replaces it; or choose another output"
        )
    return OutputPlace(readme, overwrite=True, skip=False, folder=None)


def common_ties(
    like: Checkpoint, models: Sequence[Checkpoint], selection: Selection
) -> dict[str, str]:
    """Return the ties of a model that all models have: two tensors of one are two in the result.

    A model without the second name has nothing that could differ from the first. Where
    --only and --skip leave in one of the two names, they part.
    """
    first: dict[tuple[str | None, ...], str] = {}
    ties = {}
    for name in like.names():
        memories = [_memory(name, like, model) for model in models]
        place = (*memories, str(selection.selects(name)))
        original = first.setdefault(place, name)
        if original != name:
            ties[name] = original
    return ties


def _memory(name: str, like: Checkpoint, model: Checkpoint) -> str:
    """Return the name that stands for the memory of a tensor in a model."""
    names = model.ties if name in model.names() else like.ties
    return names.get(name, name)


def output_infos(
    model: Checkpoint, target: Layout, selection: Selection, output: Output
) -> tuple[TensorInfo, ...]:
    """Return names, shapes and dtypes of a result made like `model`.

    --dtype changes real floating tensors only. A tensor tied to another is left out where the
    format has no ties.
    """
    names = [n for n in model.names() if target.format == "pt" or n not in target.ties]
    return tuple(output_info(model.info(name), selection, output) for name in names)


def output_info(info: TensorInfo, selection: Selection, output: Output) -> TensorInfo:
    """Return what a tensor is in the output."""
    real = info.dtype.is_floating_point
    if output.dtype == KEEP or not real or not selection.selects(info.name):
        return info
    return replace(info, dtype=DTYPES[output.dtype])


def describe_target(target: Target) -> dict[str, Any]:
    """Return what a plan says of one output."""
    action = "skip" if target.place.skip else "replace" if target.path.exists() else "write"
    card = {"card": str(target.card.path)} if target.card else {}
    return {"path": str(target.path), "format": target.layout.format, "action": action, **card}
