"""Maps found with tensors read as they are needed are those that are found in memory."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.held_search import HeldSearch, voting_tensors
from rebasin_cli.symmetry.map_memory import streamed_memory, whole_memory
from rebasin_cli.symmetry.map_search import MapSettings, identity_maps, match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.streamed_search import StreamedSearch
from rebasin_cli.tensors import Derived, InMemory, TensorSource, infos
from tests.symmetry.rotated_files import rotated
from tests.symmetry.small import NETS, Case, case

NOTHING = 0  # bytes: less than any model takes


def found_by(
    plan: FoldPlan, pair: tuple[TensorSource, TensorSource], memory: int | None
) -> MapMatching:
    return match_maps(*pair, plan.moving, plan.classes, settings=MapSettings(max_memory=memory))


def copies(
    found: Case, noise: float, dtype: torch.dtype = torch.float64
) -> tuple[InMemory, InMemory]:
    first, second = (
        InMemory({n: t.to(dtype) for n, t in state.items()})
        for state in (found.folded, rotated(found, seed=3, noise=noise))
    )
    return first, second


def apart(one: MapMatching, two: MapMatching) -> float:
    """Return the largest difference of matrices; permutations have to be equal."""
    assert one.maps.permutations == two.maps.permutations
    pairs = [(m.matrix, two.maps.linear[n].matrix) for n, m in one.maps.linear.items()]
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0])
def test_the_maps_are_those_found_in_memory(kind: str, noise: float) -> None:
    found = case(kind)
    pair = copies(found, noise)
    held, streamed = (found_by(found.plan, pair, memory) for memory in (None, NOTHING))
    assert apart(held, streamed) < 1e-8
    assert streamed.sweeps == held.sweeps
    assert streamed.cosine.before == pytest.approx(held.cosine.before, rel=1e-12)
    assert streamed.cosine.after == pytest.approx(held.cosine.after, rel=1e-9)


@pytest.mark.parametrize("kind", NETS)
def test_products_in_float32_of_16_bits_change_the_cosine_by_rounding(kind: str) -> None:
    found = case(kind)
    pair = copies(found, 0.2, torch.bfloat16)
    held, streamed = (found_by(found.plan, pair, memory) for memory in (None, NOTHING))
    assert 1e-9 < apart(held, streamed) < 1e-4  # float64 would agree to 1e-12
    assert streamed.cosine.after == pytest.approx(held.cosine.after, abs=1e-6)
    for name, mapped in streamed.maps.linear.items():
        one = mapped.matrix @ mapped.matrix.mT
        assert torch.allclose(one, torch.eye(one.shape[-1], dtype=torch.float64), atol=1e-12), name


ITSELF = """\
rebasin: 1
groups:
  stream: {maps: orthogonal}
  other: {maps: orthogonal}
tensors:
  embed.weight: [~, stream]
  mix.weight: [stream, stream]
  across.weight: [other, stream]
  head.weight: [~, other]
norms: {}
"""


@pytest.mark.parametrize("seed", range(3))
def test_streams_that_meet_themselves_and_one_another(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed": (9, 6), "mix": (6, 6), "across": (5, 6), "head": (7, 5)}
    first, second = (
        InMemory(
            {
                f"{name}.weight": torch.randn(shape, generator=generator, dtype=torch.float64)
                for name, shape in shapes.items()
            }
        )
        for _ in range(2)
    )
    plan = FoldPlan(bind(parse(ITSELF), infos(first)))
    held, streamed = (found_by(plan, (first, second), memory) for memory in (None, NOTHING))
    assert apart(held, streamed) < 1e-8
    assert streamed.sweeps == held.sweeps
    assert streamed.cosine.after == pytest.approx(held.cosine.after, rel=1e-9)


GATED = """\
rebasin: 1
groups:
  sign: {size: 1, per: hidden, maps: signed}
tensors:
  gate.weight: [hidden, ~]
  up.weight: ["hidden * sign", ~]
  down.weight: [~, "hidden * sign"]
norms: {}
"""


def test_gated_units_that_meet_no_stream() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (
        InMemory(
            {
                f"{name}.weight": torch.randn(shape, generator=generator, dtype=torch.float64)
                for name, shape in {"gate": (6, 4), "up": (6, 4), "down": (3, 6)}.items()
            }
        )
        for _ in range(2)
    )
    plan = FoldPlan(bind(parse(GATED), infos(first)))
    held, streamed = (found_by(plan, (first, second), memory) for memory in (None, NOTHING))
    assert apart(held, streamed) == 0
    assert -1 in streamed.maps.linear["sign"].matrix
    assert streamed.cosine.after == pytest.approx(held.cosine.after, rel=1e-12)
    # Of the first visit too, which turns units: later ones leave them as they are.
    bound, classes = plan.moving, plan.classes
    start = identity_maps(bound, classes)
    one = StreamedSearch(bound, classes, start, first, second)
    two = HeldSearch(bound, classes, start, *(voting_tensors(bound, m) for m in (first, second)))
    for search in (one, two):
        search.visit(search.families["hidden"])
    assert one.objective() == pytest.approx(two.objective(), rel=1e-12)


class Watched(Derived):
    """Tensors that are new each time, counted, and those that are still in memory of two models."""

    def __init__(self, source: TensorSource, alive: list[weakref.ref[Tensor]]) -> None:
        super().__init__(source)
        self.loads, self.most, self._alive = Counter[str](), 0, alive

    def load(self, name: str) -> Tensor:
        self.loads[name] += 1
        values = super().load(name).clone()
        self._alive[:] = [ref for ref in self._alive if ref() is not None]
        self._alive.append(weakref.ref(values))
        self.most = max(self.most, len(self._alive))
        return values


def test_tensors_are_read_twice_a_sweep_and_let_go() -> None:
    found, alive = case("layer norm"), list[weakref.ref[Tensor]]()
    first, second = (Watched(each, alive) for each in copies(found, 0.2))
    matching = found_by(found.plan, (first, second), NOTHING)
    heads = 4  # weights and biases of queries, keys and values, and the weight after them
    assert max(first.most, second.most) <= 2 * heads
    reads = Counter(first.loads.values())
    assert max(reads) <= 1 + 1 + 2 * matching.sweeps
    assert first.loads == second.loads
    assert first.loads["embed.weight"] == 1 + 1 + matching.sweeps


@pytest.mark.parametrize("broken", [0, 1])
def test_a_weight_that_is_no_number_is_named(broken: int) -> None:
    found = case("rotary")
    pair = copies(found, 0.0)
    pair[broken].load("0.v.weight")[0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"tensor '0\.v\.weight' holds NaN or infinity"):
        found_by(found.plan, pair, NOTHING)


def test_what_streaming_takes_does_not_grow_with_layers() -> None:
    text = NETS["rotary"]
    one = case("rotary")
    deep = dict(one.state)
    for layer in range(2, 30):
        deep |= {f"{layer}{n[1:]}": t for n, t in one.state.items() if n.startswith("0.")}
    bounds = [bind(parse(text), infos(InMemory(state))) for state in (one.state, deep)]
    one_layer, many = (streamed_memory(bound, torch.float64) for bound in bounds)
    assert one_layer == many
    assert whole_memory(bounds[1]) > 8 * whole_memory(bounds[0])
