"""Groups that break a function: which they are, and the spec without them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.permutation import Permutation, random_permutation
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.culprits import (
    drop_groups,
    find_culprits,
    orphaned_groups,
    without_own,
)
from tests.tracer.traps import Net, rows

TEXT = """rebasin: 1
groups:
  h: {one-sided: true}
  d: {size: 2, per: h, one-sided: true}
  s: {one-sided: true}
tensors:
  q: ["h * d", s]
  k: ["h * d", s]
  o: [s, m]
  p: [m, ~]
"""
SHAPES = {"q": (6, 4), "k": (6, 4), "o": (4, 5), "p": (5, 7)}


def given() -> tuple[Spec, BoundSpec]:
    spec = parse(TEXT)
    infos = {n: TensorInfo(n, shape, torch.float32) for n, shape in SHAPES.items()}
    return spec, bind(spec, infos)


def orders(*names: str) -> dict[str, Permutation]:
    generator = torch.Generator().manual_seed(0)
    return {name: random_permutation((5,), (), generator) for name in names}


@pytest.mark.parametrize("bad", [set(), {"a"}, {"d"}, {"a", "e"}, {"b", "c", "d"}, set("abcde")])
def test_each_group_that_breaks_alone_is_found(bad: set[str]) -> None:
    def breaks(some: Mapping[str, Permutation]) -> bool:
        return not bad.isdisjoint(some)

    assert set(find_culprits(orders(*"abcde"), breaks)) == bad


def test_groups_that_break_only_together_are_all_suspected() -> None:
    found = find_culprits(orders(*"abcd"), lambda some: {"a", "d"} <= some.keys())
    assert set(found) == set("abcd")


def test_a_dropped_group_is_a_fixed_axis() -> None:
    spec, bound = given()
    left = dump(drop_groups(spec, bound, ["m"]))
    assert "o: [s, 5]" in left
    assert " m" not in left


def test_a_dropped_parent_stays_and_is_fixed() -> None:
    spec, bound = given()
    left = drop_groups(spec, bound, ["h"])
    assert left.groups["h"].fixed
    assert left.groups["d"].per == "h"
    assert left.tensors == spec.tensors


def test_a_fixed_parent_without_children_is_dropped_too() -> None:
    spec, bound = given()
    left = orphaned_groups(drop_groups(spec, bound, ["h", "d"]), bound, [])
    assert left.groups.keys() == {"s"}
    assert '["3 * 2", s]' in dump(left)


def test_an_orphan_has_one_order_for_all_indices_of_its_parent() -> None:
    spec, bound = given()
    left = orphaned_groups(spec, bound, ["d"])
    assert left.groups["d"].per is None
    assert left.tensors == spec.tensors


def test_without_its_own_orders_a_child_is_in_the_first_one_everywhere() -> None:
    child = random_permutation((3, 5), ("h",), torch.Generator().manual_seed(1))
    found = without_own(child)
    assert found.parents == ("h",)
    assert all(torch.equal(row, child.index[0]) for row in found.index)
    assert found != child


# what the first input does not show, the proof finds on the second


def second(net: nn.Module) -> Trace:
    """Trace a net from an input of two rows, and prove it on one of three rows as well."""
    found = rows(net, 2, 5).traced()
    assert found.proof is not None and found.proof.holds
    assert found.proof.examples == 2
    return found


def test_a_group_whose_order_another_input_needs_is_fixed() -> None:
    net = Net(
        lambda m, x: m.c(m.b(steps(m.a(x).relu())).relu()),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 6),
        c=nn.Linear(6, 3),
    )
    found = second(net)
    assert found.proof is not None
    (said,) = found.proof.refuted.values()
    assert said == "fixed: permuting it changes the outputs"
    moved = {t.members[0]: len(t.groups) for t in found.bound.tensors if t.groups}
    assert moved == {"b.weight": 1, "b.bias": 1, "c.weight": 1}
    assert [group.size for group in found.bound.groups.values()] == [6]


def steps(x: Tensor) -> Tensor:
    return x.cumsum(1) if len(x) == 3 else x


def test_a_child_that_another_input_needs_in_one_order_everywhere_loses_its_parent() -> None:
    def run(m, x):
        heads = m.a(x).view(-1, 4, 3).softmax(2)
        heads = heads + heads.square().mean(1, keepdim=True) if len(x) == 3 else heads
        return m.b(heads.flatten(1))

    found = second(Net(run, a=nn.Linear(5, 12), b=nn.Linear(12, 3)))
    assert found.proof is not None
    (said,) = found.proof.refuted.values()
    assert said == "one permutation for all indices of its parent"
    sizes = {group.size: group.parents for group in found.bound.groups.values()}
    assert sizes == {4: (), 3: ()}
    assert len(found.proof.refuted.keys() & found.bound.groups.keys()) == 1
