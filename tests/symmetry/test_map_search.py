"""Planted maps of all classes at once are found, and families are solved as by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.permutation import gather
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.symmetry.family_solution import FamilySolver, LinearTerm
from rebasin_cli.symmetry.map_search import MapSettings, match_maps
from rebasin_cli.symmetry.map_sweeps import RISE
from rebasin_cli.symmetry.maps import Carried, GroupMaps, map_axes
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.symmetry.small import NETS, case


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("noise", "expected"), [(0.0, 1 - 1e-9), (0.5, 0.85), (1.0, 0.6)])
def test_planted_maps_are_found(kind: str, noise: float, expected: float) -> None:
    found = case(kind)
    plan, folded = found.plan, found.folded
    generator = torch.Generator().manual_seed(5)
    maps = draw_maps(plan.moving.groups.values(), plan.classes, generator)
    planted = Carried(InMemory(folded), plan.moving.tensors, maps)
    noisy = {
        name: value
        + noise
        * value.std(correction=0)
        * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in ((n, planted.load(n)) for n in planted.names())
    }
    matching = match_maps(InMemory(folded), InMemory(noisy), plan.moving, plan.classes)
    assert matching.cosine.before < 0.5
    assert matching.cosine.after > expected


def test_a_weight_that_is_no_number_is_named() -> None:
    found = case("rotary")
    broken = {**found.folded}
    broken["0.v.weight"] = broken["0.v.weight"] * torch.nan
    with pytest.raises(NotFiniteError, match=r"tensor '0\.v\.weight' holds NaN or infinity"):
        match_maps(InMemory(found.folded), InMemory(broken), found.plan.moving, found.plan.classes)


GROUPS = {
    "kv": BoundGroup("kv", (2,)),
    "q": BoundGroup("q", (2, 3), ("kv",)),
    "rope": BoundGroup("rope", (2, 4), ("kv",), maps="orthogonal"),
}
CLASSES = {"kv": "permutation", "q": "permutation", "rope": "orthogonal"}


def _pair(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    one, two = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, two


def _reached(terms: Sequence[LinearTerm], maps: GroupMaps) -> float:
    """Return the products of the references with the others, moved by maps."""
    total = 0.0
    for term in terms:
        owners = (*term.groups, None)
        moved = map_axes(gather(term.other, owners, maps.permutations), owners, maps.linear)
        total += float((term.reference * moved).sum())
    return total


@pytest.mark.parametrize("behind", [False, True], ids=["heads, queries, dims", "and dims, queries"])
def test_heads_queries_and_their_rotation_are_solved_as_by_brute_force(behind: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {("kv", "rope"): (2, 4, 5), ("kv", "q", "rope"): (2, 3, 4, 5)}
    terms = [LinearTerm(groups, *_pair(shape, generator)) for groups, shape in shapes.items()]
    keys, queries = terms
    told = [keys, *_halves(queries)] if behind else terms
    maps = FamilySolver(GROUPS, CLASSES).solve("kv", told)
    best = 0.0
    for heads in permutations(range(2)):
        for orders in product(permutations(range(3)), repeat=2):
            value = 0.0
            for i, j in enumerate(heads):
                n = keys.reference[i] @ keys.other[j].T
                for a, b in enumerate(orders[i]):
                    n = n + queries.reference[i, a] @ queries.other[j, b].T
                value += float(torch.linalg.svdvals(n).sum())
            best = max(best, value)
    assert _reached(terms, maps) == pytest.approx(best, rel=1e-10)


def _halves(term: LinearTerm) -> list[LinearTerm]:
    """Return a term in two, one of them with its last two dimensions the other way round."""
    head, one, other = term.groups
    first, second = zip(*(v.split((2, 3), -1) for v in (term.reference, term.other)), strict=True)
    turned = (values.transpose(1, 2) for values in second)
    return [LinearTerm(term.groups, *first), LinearTerm((head, other, one), *turned)]


def test_three_levels_are_solved_as_by_brute_force() -> None:
    groups = {
        "expert": BoundGroup("expert", (2,)),
        "hidden": BoundGroup("hidden", (2, 3), ("expert",)),
        "sign": BoundGroup("sign", (2, 3, 1), ("expert", "hidden"), maps="orthogonal"),
    }
    classes = {"expert": "permutation", "hidden": "permutation", "sign": "orthogonal"}
    generator = torch.Generator().manual_seed(1)
    shapes = {("expert", "hidden"): (2, 3, 4), ("expert", "hidden", "sign"): (2, 3, 1, 4)}
    terms = [LinearTerm(names, *_pair(shape, generator)) for names, shape in shapes.items()]
    maps = FamilySolver(groups, classes).solve("expert", terms)
    gates, ups = terms
    best = max(
        sum(
            float(gates.reference[i, a] @ gates.other[j, b])
            + abs(float(ups.reference[i, a, 0] @ ups.other[j, b, 0]))
            for i, j in enumerate(experts)
            for a, b in enumerate(orders[i])
        )
        for experts in permutations(range(2))
        for orders in product(permutations(range(3)), repeat=2)
    )
    assert _reached(terms, maps) == pytest.approx(best, rel=1e-10)


def test_signs_of_heads_and_of_each_query_beside_values_are_found_again() -> None:
    """As a gain over all heads has them: o_proj is (kv, sign, q with its sign, vo)."""
    groups = {
        "kv": BoundGroup("kv", (2,)),
        "q": BoundGroup("q", (2, 3), ("kv",)),
        "vo": BoundGroup("vo", (2, 4), ("kv",), maps="orthogonal"),
        "sign": BoundGroup("sign", (2, 1), ("kv",), maps="signed"),
        "each": BoundGroup("each", (2, 3, 1), ("kv", "q"), maps="signed"),
    }
    classes = {name: group.maps for name, group in groups.items()}
    shapes = {
        ("kv", "q"): (2, 3, 9),
        ("kv", "vo"): (2, 4, 9),
        ("kv", "sign", "q", "each"): (2, 1, 3, 1, 9),
        ("kv", "sign", "q", "each", "vo"): (2, 1, 3, 1, 4, 9),
    }
    generator = torch.Generator().manual_seed(3)
    planted = draw_maps(list(groups.values()), classes, generator)
    terms = []
    for names, shape in shapes.items():
        one, owners = _pair(shape, generator)[0], (*names, None)
        moved = map_axes(gather(one, owners, planted.permutations), owners, planted.linear)
        terms.append(LinearTerm(names, moved, one))
    whole = sum(float((term.reference**2).sum()) for term in terms)
    found = FamilySolver(groups, classes).solve("kv", terms)
    assert _reached(terms, found) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("queries", [2, 5])  # of 5 not all orders are tried
def test_an_order_beside_units_with_signs_is_solved_as_by_brute_force(queries: int) -> None:
    """As values under a gate of every query have them: o_proj is (kv, q, vo with its sign)."""
    groups = {
        "kv": BoundGroup("kv", (1,)),
        "q": BoundGroup("q", (1, queries), ("kv",)),
        "vo": BoundGroup("vo", (1, 3), ("kv",)),
        "sign": BoundGroup("sign", (1, 3, 1), ("kv", "vo"), maps="signed"),
    }
    classes = {name: group.maps for name, group in groups.items()}
    shapes = {
        ("kv", "q"): (1, queries, 5),
        ("kv", "q", "vo"): (1, queries, 3, 4),
        ("kv", "vo", "sign"): (1, 3, 1, 4),
        ("kv", "q", "vo", "sign"): (1, queries, 3, 1, 4),
    }
    generator = torch.Generator().manual_seed(3)
    terms = [LinearTerm(names, *_pair(shape, generator)) for names, shape in shapes.items()]
    bias, gate, value, out = terms

    def worth(q: Sequence[int], vo: Sequence[int]) -> float:
        mine, theirs = (out.reference[0], value.reference[0]), (out.other[0][[*q]], value.other[0])
        turned = [
            (mine[0][:, i, 0] * theirs[0][:, j, 0]).sum() + mine[1][i, 0] @ theirs[1][j, 0]
            for i, j in enumerate(vo)
        ]
        same = (gate.reference[0] * gate.other[0][[*q]][:, [*vo]]).sum()
        same += (bias.reference[0] * bias.other[0][[*q]]).sum()
        return float(same + torch.stack(turned).abs().sum())

    inner = list(permutations(range(3)))
    orders = {q: max(worth(q, vo) for vo in inner) for q in permutations(range(queries))}
    reached = _reached(terms, FamilySolver(groups, classes).solve("kv", terms))
    if queries == 2:
        assert reached == pytest.approx(max(orders.values()), rel=1e-12)
    assert orders[tuple(range(queries))] - 1e-9 < reached < max(orders.values()) + 1e-9


@pytest.mark.parametrize("fixed", [False, True])
def test_units_with_signs_are_solved_as_by_brute_force(fixed: bool) -> None:
    groups = {
        "hidden": BoundGroup("hidden", (4,), fixed=fixed),
        "sign": BoundGroup("sign", (4, 1), ("hidden",), maps="signed"),
    }
    classes = {"hidden": "permutation", "sign": "signed"}
    generator = torch.Generator().manual_seed(2)
    gate, up, down = (
        LinearTerm(names, *_pair(shape, generator))
        for names, shape in (
            (("hidden",), (4, 3)),
            (("hidden", "sign"), (4, 1, 3)),
            (("hidden", "sign"), (4, 1, 2)),
        )
    )
    maps = FamilySolver(groups, classes).solve("hidden", [gate, up, down])
    turned = sum(term.reference[:, 0] @ term.other[:, 0].T for term in (up, down))
    worth = gate.reference @ gate.other.T + torch.as_tensor(turned).abs()
    orders = [tuple(range(4))] if fixed else list(permutations(range(4)))
    best = max(sum(float(worth[i, j]) for i, j in enumerate(order)) for order in orders)
    assert _reached((gate, up, down), maps) == pytest.approx(best, rel=1e-12)


def test_the_scale_of_a_tensor_decides_nothing() -> None:
    found = case("rotary")
    other = case("rotary", seed=1).folded
    scaled = {n: t * (50.0 if n == "head.weight" else 1.0) for n, t in other.items()}
    one, two = (
        match_maps(InMemory(found.folded), InMemory(b), found.plan.moving, found.plan.classes)
        for b in (other, scaled)
    )
    for name, mapped in one.maps.linear.items():
        assert torch.allclose(mapped.matrix, two.maps.linear[name].matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_a_copy_with_few_rows_to_hold_on_to_is_found_by_going_on(seed: int) -> None:
    """22 rows of words do not fix 40 units of a stream: the blocks do, sweep after sweep."""
    found = case("rotary", seed, d=40)
    plan, folded = found.plan, InMemory(found.folded)
    groups, generator = plan.moving.groups.values(), torch.Generator().manual_seed(1)
    maps = draw_maps(groups, plan.classes, generator)
    other = Carried(folded, plan.moving.tensors, maps)

    def apart(rise: float) -> float:
        maps = match_maps(folded, other, plan.moving, plan.classes, settings=MapSettings(rise)).maps
        moved = Carried(other, plan.moving.tensors, maps)
        pairs = [(folded.load(name), moved.load(name)) for name in folded.names()]
        return max(float((a - b).norm() / a.norm()) for a, b in pairs)

    assert apart(1e-15) < 1e-7
    assert apart(RISE) > 1e-3
