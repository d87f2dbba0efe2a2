"""Planted maps of all classes at once are found, and families are solved as by brute force."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.permutation import gather
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.symmetry.family_solution import FamilySolver, LinearTerm
from rebasin_cli.symmetry.map_search import MapSettings, match_maps
from rebasin_cli.symmetry.map_sweeps import RISE
from rebasin_cli.symmetry.maps import Carried, map_axes
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


@pytest.mark.parametrize("behind", [False, True], ids=["heads, queries, dims", "and dims, queries"])
def test_heads_queries_and_their_rotation_are_solved_as_by_brute_force(behind: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {("kv", "rope"): (2, 4, 5), ("kv", "q", "rope"): (2, 3, 4, 5)}
    terms = [
        LinearTerm(
            groups,
            *(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)),
        )
        for groups, shape in shapes.items()
    ]
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
    reached = 0.0
    for term in terms:
        moved = gather(term.other, (*term.groups, None), maps.permutations)
        moved = map_axes(moved, (*term.groups, None), maps.linear)
        reached += float((term.reference * moved).sum())
    assert reached == pytest.approx(best, rel=1e-10)


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
    terms = [
        LinearTerm(
            names,
            *(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)),
        )
        for names, shape in shapes.items()
    ]
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
    reached = 0.0
    for term in terms:
        owners = (*term.groups, None)
        moved = map_axes(gather(term.other, owners, maps.permutations), owners, maps.linear)
        reached += float((term.reference * moved).sum())
    assert reached == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("fixed", [False, True])
def test_units_with_signs_are_solved_as_by_brute_force(fixed: bool) -> None:
    groups = {
        "hidden": BoundGroup("hidden", (4,), fixed=fixed),
        "sign": BoundGroup("sign", (4, 1), ("hidden",), maps="signed"),
    }
    classes = {"hidden": "permutation", "sign": "signed"}
    generator = torch.Generator().manual_seed(2)
    gate, up, down = (
        LinearTerm(
            names,
            *(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)),
        )
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
    reached = 0.0
    for term in (gate, up, down):
        owners = (*term.groups, None)
        moved = map_axes(gather(term.other, owners, maps.permutations), owners, maps.linear)
        reached += float((term.reference * moved).sum())
    assert reached == pytest.approx(best, rel=1e-12)


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
