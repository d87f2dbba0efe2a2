"""Nested tuples, lists and mappings, and the tensors inside them: the one place that walks them.

The walk is torch's own, which knows named tuples and what libraries tell it of their output
classes. It is private to torch: nothing else of the package imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor
from torch.utils import _pytree

T = TypeVar("T")
Kind = type[Any] | tuple[type[Any], ...]


def leaves_of(tree: object, kind: type[T]) -> list[T]:
    """Return everything of one type in nested tuples, lists and mappings, in order."""
    found: list[T] = []
    for leaf in _pytree.tree_leaves(tree, is_leaf=_ends(kind)):
        if isinstance(leaf, kind):
            found.append(leaf)
        elif _is_branch(leaf):
            found += leaves_of(_plain(leaf), kind)
    return found


def tensors_in(tree: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and mappings, in order."""
    return leaves_of(tree, Tensor)


def map_leaves(tree: Any, kind: Kind, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists and mappings with everything of one type replaced.

    Containers keep their types; of those that torch does not know, such as what a tokenizer
    returns, mappings become dictionaries. What is inside other objects is left alone.
    """

    def renewed(leaf: Any) -> Any:
        if isinstance(leaf, kind):
            return change(leaf)
        return map_leaves(_plain(leaf), kind, change) if _is_branch(leaf) else leaf

    return _pytree.tree_map(renewed, tree, is_leaf=_ends(kind))


def _ends(kind: Kind) -> Callable[[Any], bool]:
    """Return where a walk stops, also if torch could go on: inside caches, for one.

    A cache that was taken apart and built anew is not the one that the model writes into.
    """
    return lambda node: isinstance(node, kind) or not _is_branch(node)


def _is_branch(node: object) -> bool:
    return isinstance(node, tuple | list | Mapping)


def _plain(branch: Any) -> Any:
    """Return a container that torch's walk does not know as a plain dict, list or tuple."""
    if isinstance(branch, Mapping):
        return dict(branch)
    return list(branch) if isinstance(branch, list) else tuple(branch)
