"""Nested tuples, lists and mappings: all tensors are found and changed, and nothing else is."""

import ast
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

import rebasin_cli
from rebasin_cli.tensors.trees import leaves_of, map_leaves, tensors_in

PACKAGE = Path(rebasin_cli.__file__).parent


class Pair(NamedTuple):
    one: Any
    two: Any


class Longer(Pair):
    """A class of its own on top of a named tuple."""


class Row(list[Any]):
    """A list that torch does not know."""


class Cache:
    """Something that torch can take apart, and that is no tuple, list or mapping."""

    def __init__(self, held: Any) -> None:
        self.held = held


ONE, TWO, THREE = torch.zeros(2), torch.ones(3), torch.arange(4)

TREES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "tuple": lambda a, b, c: (a, b, c),
    "list": lambda a, b, c: [a, b, c],
    "dict, not sorted": lambda a, b, c: {"z": a, "b": b, "a": c},
    "nested": lambda a, b, c: ({"x": [a, (b,)]}, [], {}, None, "text", 2, [{"y": {"z": c}}]),
    "named tuple": lambda a, b, c: Pair(a, Pair(b, [c])),
    "class on a named tuple": lambda a, b, c: Longer([a, b], {"x": c}),
    "ordered mapping": lambda a, b, c: OrderedDict(z=a, a=[b, c]),
    "mapping of a tokenizer": lambda a, b, c: UserDict(z=a, a=UserDict(y=(b,), x=c)),
    "read-only mapping": lambda a, b, c: [MappingProxyType({"z": a}), {"y": (b, c)}],
    "class on a list": lambda a, b, c: (Row([a, UserDict(x=b)]), c),
}
trees = pytest.mark.parametrize("make", TREES.values(), ids=TREES)


@trees
def test_all_tensors_are_found_in_order(make: Callable[..., Any]) -> None:
    found = tensors_in(make(ONE, TWO, THREE))
    assert [id(tensor) for tensor in found] == [id(ONE), id(TWO), id(THREE)]


@trees
def test_what_is_found_after_a_change_is_what_was_found_changed(make: Callable[..., Any]) -> None:
    tree = make(ONE, TWO, THREE)
    changed = tensors_in(map_leaves(tree, Tensor, lambda tensor: tensor + 1))
    assert all(map(torch.equal, changed, [tensor + 1 for tensor in tensors_in(tree)]))
    assert len(changed) == 3


@trees
def test_a_change_is_seen_once_for_each_tensor_in_order(make: Callable[..., Any]) -> None:
    seen: list[Tensor] = []
    map_leaves(make(ONE, TWO, THREE), Tensor, seen.append)
    assert [id(tensor) for tensor in seen] == [id(ONE), id(TWO), id(THREE)]


@trees
def test_a_tree_is_not_changed_itself(make: Callable[..., Any]) -> None:
    tree = make(ONE, TWO, THREE)
    map_leaves(tree, Tensor, lambda _: None)
    assert len(tensors_in(tree)) == 3


@pytest.mark.parametrize("name", ["tuple", "list", "nested", "named tuple", "ordered mapping"])
def test_containers_that_torch_knows_keep_their_types(name: str) -> None:
    made = map_leaves(TREES[name](ONE, TWO, THREE), Tensor, lambda t: tuple(t.shape))
    expected = TREES[name]((2,), (3,), (4,))
    assert made == expected
    assert type(made) is type(expected)


def test_a_mapping_that_torch_does_not_know_becomes_a_dictionary() -> None:
    made = map_leaves(UserDict(a=ONE, b=[UserDict(c=TWO)]), Tensor, lambda t: tuple(t.shape))
    assert type(made) is dict
    assert made == {"a": (2,), "b": [{"c": (3,)}]}


def test_a_tree_may_be_a_single_tensor_or_something_else() -> None:
    assert tensors_in(ONE)[0] is ONE
    assert map_leaves(ONE, Tensor, lambda t: t + 1).tolist() == [1, 1]
    assert tensors_in("text") == []
    assert map_leaves(7, Tensor, lambda t: t + 1) == 7


def test_what_is_inside_other_objects_is_left_alone_even_if_torch_can_take_them_apart() -> None:
    register = _pytree.register_pytree_node
    register(Cache, lambda cache: ([cache.held], None), lambda held, _: Cache(next(iter(held))))
    cache, queue = Cache(ONE), deque([ONE])
    assert tensors_in((cache, queue)) == []
    kept = map_leaves([cache, queue, slice(1, 2)], Tensor, lambda t: t + 1)
    assert kept[0] is cache
    assert kept[1] is queue
    assert kept[2] == slice(1, 2)


def test_arrays_of_numpy_are_found_by_their_own_types() -> None:
    tree = {"a": np.zeros(2), "b": (np.float32(1), [3, "text"]), "c": ONE}
    made = map_leaves(tree, (np.ndarray, np.generic), torch.as_tensor)
    assert [tuple(tensor.shape) for tensor in tensors_in(made)] == [(2,), (), (2,)]
    assert made["b"][1] == [3, "text"]
    assert leaves_of(tree, np.ndarray) == [tree["a"]]


def test_output_classes_of_transformers_keep_their_type_and_order() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    tree = outputs.BaseModelOutput(last_hidden_state=ONE, hidden_states=(TWO, THREE))
    assert [id(tensor) for tensor in tensors_in(tree)] == [id(ONE), id(TWO), id(THREE)]
    made = map_leaves(tree, Tensor, lambda tensor: tensor + 1)
    assert type(made) is outputs.BaseModelOutput
    assert made.attentions is None
    assert torch.equal(made.hidden_states[1], THREE + 1)


def test_the_walk_of_torch_is_used_in_one_module() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and "_pytree" in ast.unparse(node)
    }
    assert users == {"tensors/trees.py"}
