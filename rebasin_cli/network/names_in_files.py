"""Which names a checkpoint uses for the tensors of a model that is known.

Its own, or those that transformers writes; with a prefix in front, or without one that the model
has, as when the weights of a backbone are loaded into a model with a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.checkpoint.renamed import strip_wrappers
from rebasin_cli.errors import CheckpointError, Problem, suggest
from rebasin_cli.files.difference import label_names, shape_text
from rebasin_cli.files.names.common_names import normal_names, uniform_prefixes
from rebasin_cli.files.other_forms import form_hint
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Window

# Tables that old files of transformers hold and that the code now computes.
DERIVED = (r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$", r"position_ids$")


@dataclass(frozen=True)
class ModelTensors:
    """The tensors of a model, and how files may name them.

    infos, ties: of its state dict. needed: names without which a checkpoint is not one of it.
    windows: the names that its library writes, where they are not the model's own. ignored:
    expressions for tensors of old files that it has no use for.
    """

    name: str
    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    needed: frozenset[str]
    windows: Mapping[str, Window]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredNames:
    """Names of files, each with its place in the model.

    prefix: in front of all names (`added`), or taken from those that had it. heads: names that
    had no such prefix.
    """

    windows: Mapping[str, Window]
    prefix: str = ""
    added: bool = False
    heads: frozenset[str] = frozenset()

    def other_head(self, name: str) -> bool:
        """Return whether a tensor that the model lacks is a head beside the backbone.

        Heads read what the backbone returns, and that keeps its order here.
        """
        if self.added:
            return not name.startswith(self.prefix)
        parts = {stored.partition(".")[0] for stored in self.windows.keys() - self.heads}
        return bool(self.heads) and name.partition(".")[0] not in parts

    @property
    def note(self) -> str:
        """What to say of the names; empty if they are the model's or the library's own."""
        if not self.prefix:
            return ""
        return f" {'with' if self.added else 'without'} the prefix {self.prefix!r}"


def layout_of(
    known: ModelTensors, stored: Mapping[str, TensorInfo], wanted: Sequence[str], where: str
) -> StoredNames:
    """Return the layout that a checkpoint has.

    stored: its tensors. wanted: the names among them that --only and --skip leave in.
    Raises CheckpointError with the differences if it lacks a tensor that the model has, has one
    that the model has no use for, or one of another shape.
    """

    def agree(layout: StoredNames) -> int:
        found = layout.windows.items()
        return sum(n in stored and stored[n].shape == window.shape for n, window in found)

    best = max(_layouts(known, stored), key=agree)
    problems = list(_problems(best, known, stored, wanted))
    if problems:
        raise CheckpointError(
            f"its tensors are not those of {known.name}",
            where=where,
            detail="\n".join(line for problem in problems for line in problem.detail.split("\n")),
            hint=next((p.hint for p in problems if p.hint), "")
            or "--model-args JSON and hf:FOLDER say which size the model has",
        )
    return best


def missing_sources(
    layout: StoredNames, known: ModelTensors, stored: Mapping[str, TensorInfo]
) -> set[str]:
    """Return the tensors that the model needs and that a checkpoint has under no name."""
    canonical = {**{n: n for n in known.infos}, **known.ties}
    here = {canonical[w.source] for name, w in layout.windows.items() if name in stored}
    sources = {window.source for window in layout.windows.values()}
    return {s for s in sources if s in known.needed and canonical[s] not in here}


def _layouts(known: ModelTensors, stored: Mapping[str, TensorInfo]) -> Iterator[StoredNames]:
    """Yield the layouts that are possible, the plain ones first."""
    plain = list(_plain_layouts(known, stored))
    yield from plain
    # The same with what wrappers around the model, or around the file's modules, add to names.
    back = {new: old for old, new in normal_names(stored).items() if new != old}
    for layout in plain:
        bare = {strip_wrappers(name): window for name, window in layout.windows.items()}
        if back or bare.keys() != layout.windows.keys():
            windows = {back.get(name, name): window for name, window in bare.items()}
            yield replace(layout, windows=windows)


def _plain_layouts(known: ModelTensors, stored: Mapping[str, TensorInfo]) -> Iterator[StoredNames]:
    own = {name: Window.whole(info) for name, info in known.infos.items()}
    bases = [windows for windows in (own, known.windows) if windows]
    yield from map(StoredNames, bases)
    for windows in bases:
        for prefix in _prefixes(windows):
            heads = frozenset(name for name in windows if not name.startswith(prefix))
            shorter = {name.removeprefix(prefix): window for name, window in windows.items()}
            if len(shorter) == len(windows):
                yield StoredNames(shorter, prefix, added=False, heads=heads)
        for prefix in dict.fromkeys((*_prefixes(stored), *uniform_prefixes(stored))):
            longer = {f"{prefix}{name}": window for name, window in windows.items()}
            yield StoredNames(longer, prefix, added=True)


def _prefixes(names: Mapping[str, object]) -> list[str]:
    return sorted({f"{name.partition('.')[0]}." for name in names if "." in name})


def _problems(
    layout: StoredNames,
    known: ModelTensors,
    stored: Mapping[str, TensorInfo],
    wanted: Sequence[str],
) -> Iterator[Problem]:
    lost = missing_sources(layout, known, stored)
    missing = [
        name
        for name, window in layout.windows.items()
        if window.source in lost and name not in stored and name not in layout.heads
    ]
    unknown = [n for n in wanted if n not in layout.windows and _matters(n, layout, known, stored)]
    if missing:
        hint = form_hint(missing, unknown) or suggest(missing[0], unknown)
        yield Problem("", detail="\n".join(label_names("missing", missing)), hint=hint)
    if unknown:
        hint = "--skip GLOB leaves tensors out"
        yield Problem("", detail="\n".join(label_names("not in the model", unknown)), hint=hint)
    shapes = [
        shape_text(name, stored[name].shape, window.shape)
        for name, window in layout.windows.items()
        if name in stored and stored[name].shape != window.shape
    ]
    if shapes:
        yield Problem("", detail="\n".join(label_names("shape", shapes)))


def _matters(
    name: str, layout: StoredNames, known: ModelTensors, stored: Mapping[str, TensorInfo]
) -> bool:
    """Return whether a tensor that the model lacks shows that a checkpoint is of another."""
    info = stored[name]
    ignored = any(re.search(pattern, name) for pattern in (*known.ignored, *DERIVED))
    return info.floating and info.numel > 1 and not (ignored or layout.other_head(name))
