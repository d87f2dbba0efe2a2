"""What a name stands for, with its indices taken out: what repeated layers have in common.

`[h.3.mlp, h.3.norm]` has the form `[h.#.mlp, h.#.norm]` and the slots (3, 3). Layers of one form
differ in slots only, and a template is a form with a term for each slot: `{i}`, `{i.prev}`, `3`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rebasin_cli.spec.language.expression import dump_expression
from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Declaration,
    Entry,
    Fixed,
    Named,
    Product,
    Split,
    axes_of,
    entry_names,
    rewritten,
    with_axes,
)
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME

MARK = "#"  # stands for an index; no group can have it in its name
Meaning = Entry | Declaration | bool  # of a tensor, of a group, of a name in a list


@dataclass(frozen=True, eq=False)
class Form:
    """An entry or a declaration whose group names have marks for their indices.

    prefixes: for each mark, what stands before it in its group's name. length: of its text.
    Equal only to itself: `Forms` makes each form once, so that forms are compared and counted
    without comparing trees.
    """

    masked: Meaning
    prefixes: tuple[str, ...]
    length: int


@dataclass
class Forms:
    """The forms met so far."""

    kept: Collection[str] = ()
    _known: dict[Meaning, Form] = field(default_factory=dict)

    def take(self, meaning: Meaning) -> tuple[Form, tuple[int, ...]]:
        """Return the form of an entry or declaration, and the indices taken out of it.

        Names that are `kept` keep their digits. Entries of the same text have the same form,
        whatever tensors they are of: slots are in the order in which the text is read.
        """
        found: list[int] = []

        def mask(name: str) -> str:
            if name in self.kept:
                return name
            found.extend(int(index[0]) for index in INDEX_IN_NAME.finditer(name))
            return INDEX_IN_NAME.sub(MARK, name)

        masked = rename_groups(meaning, mask)
        if masked not in self._known:
            texts = list(_names(masked))
            prefixes = tuple(p for text in texts for p in prefixes_of(text.split(MARK)))
            self._known[masked] = Form(masked, prefixes, _length(masked))
        return self._known[masked], tuple(found)


def fill_form(masked: Meaning, texts: Sequence[str]) -> Meaning:
    """Return an entry or declaration with texts, such as `{i.prev}` or `3`, for its marks."""
    left = iter(texts)

    def fill(name: str) -> str:
        first, *others = name.split(MARK)
        return first + "".join(next(left) + other for other in others)

    return rename_groups(masked, fill)


def prefixes_of(pieces: Sequence[str]) -> tuple[str, ...]:
    """Return what stands before each index of a name cut at its indices, earlier ones marked."""
    return tuple(MARK.join(pieces[: k + 1]) for k in range(len(pieces) - 1))


def rename_groups(meaning: Meaning, rename: Callable[[str], str]) -> Meaning:
    """Return an entry or declaration with other names of groups; places are dropped."""
    if isinstance(meaning, bool):
        return meaning
    if isinstance(meaning, Declaration):
        return replace(meaning, per=meaning.per and rename(meaning.per))

    def renamed(leaf: Named | Fixed) -> AxisExpr:
        return Named(rename(leaf.name)) if isinstance(leaf, Named) else Fixed(leaf.size)

    return with_axes(meaning, lambda axes: tuple(rewritten(axis, renamed) for axis in axes))


def plain_entry(entry: Entry, rank: int) -> Entry:
    """Return the entry of a tensor with `~` for each fixed axis, and without those at the end.

    The axis along which parts are cut keeps its sizes: they say where to cut.
    """
    if not isinstance(entry, Split):
        axes = _trim_axes(tuple(map(_plain_axis, entry)), 0)
        return axes or (Fixed(),) * min(rank, 1)
    parts = (
        tuple(tree if k == entry.axis else _plain_axis(tree) for k, tree in enumerate(part))
        for part in entry.parts
    )
    return Split(entry.axis, tuple(_trim_axes(part, entry.axis + 1) for part in parts))


def _plain_axis(tree: AxisExpr) -> AxisExpr:
    # Not the sum of fixed segments: it gives a block for each.
    factors = tree.factors if isinstance(tree, Product) else (tree,)
    return Fixed() if all(isinstance(factor, Fixed) for factor in factors) else tree


def _trim_axes(axes: Axes, least: int) -> Axes:
    while len(axes) > least and axes[-1] == Fixed():
        axes = axes[:-1]
    return axes


def _names(meaning: Meaning) -> Iterator[str]:
    if isinstance(meaning, Declaration):
        yield meaning.per or ""
    elif not isinstance(meaning, bool):
        yield from entry_names(meaning)


def _length(meaning: Meaning) -> int:
    """Return how many characters a form takes each time that it is written."""
    if isinstance(meaning, bool):
        return 0
    if isinstance(meaning, Declaration):
        return len(meaning.per or "")
    return sum(len(dump_expression(axis)) + 2 for axes in axes_of(meaning) for axis in axes)
