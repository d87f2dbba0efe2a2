"""More units that do nothing: outputs stay, and what cannot be widened is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from rebasin_cli.checkpoint.source_checkpoint import SourceCheckpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.resized_network import resize_model
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Block, BoundTensor, Dim, Window
from rebasin_cli.widening.grown_tensors import NEW, NewSizes, grown_axes
from rebasin_cli.widening.growth import plan_growth
from rebasin_cli.widening.wider_checkpoint import WiderCheckpoint, as_wider
from rebasin_cli.widening.wider_sizes import said_sizes
from tests.models import EXAMPLES, outputs
from tests.proof import EXACT, change, stored

LLAMA = {"model_type": "llama", "num_key_value_heads": 4}
Case = tuple[nn.Module, SourceCheckpoint, Choice]


def case(name: str, config: Mapping[str, object] | None = None) -> Case:
    example = EXAMPLES[name]
    model = example.model(seed=1)
    seen = SourceCheckpoint(InMemory(stored(model)), name, config=config)
    sizes = {} if config else dict(example.sizes)
    return model, seen, choose_spec([seen], Selection(sizes=sizes))


def widened(found: Case, *said: str) -> WiderCheckpoint:
    _, seen, choice = found
    sizes = said_sizes(choice.bound, said)
    return as_wider(seen, plan_growth(choice.bound, sizes, choice.movable, seen.names()), {})


def moved(name: str, found: Case, wide: SourceCheckpoint | WiderCheckpoint) -> float:
    """Return how far outputs move, in a model with layers of the new widths and other values."""
    example, (model, seen, _) = EXAMPLES[name], found
    shapes = {n: wide.info(n).shape for n in wide.names() if wide.info(n) != seen.info(n)}
    other = resize_model(example.model(seed=2), shapes)
    fill(other, wide, {n: Window.whole(wide.info(n)) for n in wide.names()})
    return change(outputs(model, example.batch()), outputs(other, example.batch()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mlp_sequential", ["hidden.*=2x"]),
        ("mlp_sequential", ["hidden.*=1.5x", "hidden.0=31"]),
        ("vgg11_small", ["conv.*=1.5x"]),
        ("vgg11_bn", ["conv1.1=7", "conv5.1=33", "fc1=300"]),
        ("resnet20_stages", ["stage.*=2x", "inner.*=3x"]),
        ("cifar_fixup", ["stage.*=2x"]),
        ("vit_timm", ["hidden.*=50"]),
        ("vit_timm", ["stream=48", "qk.*=12", "vo.*=12"]),
        ("char_gpt", ["hidden.*=41"]),
    ],
)
def test_outputs_stay_whatever_becomes_wider(name: str, said: list[str]) -> None:
    found = case(name)
    assert moved(name, found, widened(found, *said)) < EXACT


@pytest.mark.parametrize("said", ["hidden.*=2x", "kv.*=7", "stream=33"])
def test_a_llama_grows_in_hidden_units_in_heads_and_in_its_stream(said: str) -> None:
    found = case("llama", LLAMA)
    assert moved("llama", found, widened(found, said)) < EXACT


def test_scores_are_divided_by_the_root_of_a_larger_head_and_made_good() -> None:
    found = case("vit_timm")
    wide = widened(found, "stream=48", "qk.*=12", "vo.*=12")
    plain = SourceCheckpoint(wide, "plain")
    rows = {n: t for n in wide.names() if "qkv" in n for t in [wide.load(n).clone()]}
    for tensor in rows.values():
        tensor[: 2 * 48] *= 2**-0.25
    told = WithOthers(plain, rows)
    assert moved("vit_timm", found, told) > 1e-4


class WithOthers(SourceCheckpoint):
    """A checkpoint with other values of some tensors."""

    def __init__(self, source: SourceCheckpoint, others: Mapping[str, torch.Tensor]) -> None:
        super().__init__(source, "others")
        self._others = others

    def load(self, name: str) -> torch.Tensor:
        return self._others[name] if name in self._others else super().load(name)


def test_what_only_grows_keeps_every_bit_and_the_rest_is_zero_but_variances() -> None:
    found = case("resnet20_stages")
    wide = widened(found, "stage.0=6")
    weight, before = wide.load("conv1.weight"), found[1].load("conv1.weight")
    assert torch.equal(weight[:4], before) and not weight[4:].any()
    variance = [n for n in wide.names() if n.endswith("running_var") and len(wide.load(n)) == 6]
    assert variance and all(bool((wide.load(n)[4:] == 1).all()) for n in variance)


@pytest.mark.parametrize(
    ("name", "config", "said", "why"),
    [
        ("mlp_sequential", None, "hidden.0=3", "units are added, and none is taken away"),
        ("mlp_sequential", None, "hidden.0=99999999999", "more than 16,777,216 are not made"),
        ("llama", LLAMA, "rope.0=12", "rotary positions turn its pairs by frequencies"),
        ("llama", LLAMA, "sign.0=2", "the spec says that its units are fixed"),
        ("llama", None, "stream=40", "config.json would say whether its norm adds 1 to it"),
        ("char_gpt", None, "stream=40", "LayerNorm takes off a mean, which LayerScale or a tied"),
        ("char_gpt", None, "stream=40", "hint: rebasin fold MODEL --tie untie first"),
    ],
)
def test_what_cannot_be_widened_is_refused_with_the_reason(
    name: str, config: Mapping[str, object] | None, said: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        widened(case(name, config), said)


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        ("cifar_ln", "inner.0.0=8", "norm1.weight may be of a norm that takes its units together"),
        ("vit_timm", "qk.0=8", "no tensor reads its units"),
        ("vit_timm", "stream=48", "its norms count its units"),
    ],
)
def test_what_only_running_tells_is_in_doubt(name: str, said: str, why: str) -> None:
    ((_, told),) = widened(case(name), said).growth.doubts.items()
    assert why in told


def test_experts_are_in_doubt_since_a_router_would_choose_new_ones(tmp_path: Path) -> None:
    spec = tmp_path / "moe.yaml"
    spec.write_text(
        "rebasin: 1\nname: moe\ntransposed: [table.weight]\ngroups: {h: {per: e}}\n"
        "tensors:\n  table.weight: [~, s]\n  router.weight: [e, s]\n  into: [e, h, s]\n"
        "  out: [e, s, h]\n  head.weight: [~, s]\n"
    )
    matrices = {"table.weight": 7, "router.weight": 3, "head.weight": 7}
    tensors = {name: torch.randn(rows, 5) for name, rows in matrices.items()}
    tensors |= {"into": torch.randn(3, 4, 5), "out": torch.randn(3, 5, 4)}
    seen = SourceCheckpoint(InMemory(tensors), "moe")
    found = nn.Module(), seen, choose_spec([seen], Selection(spec=str(spec)))
    assert widened(found, "e=4").growth.doubts["e"].startswith("each of its units has matrices")
    assert not widened(found, "h=6").growth.doubts
    assert widened(found, "h=6").load("out").shape == (3, 5, 6)


def test_plain_layers_and_batch_norms_leave_no_doubt() -> None:
    assert not widened(case("resnet20_stages"), "*=2x").growth.doubts
    assert not widened(case("vgg11_bn"), "fc1=300").growth.doubts


def test_units_keep_their_places_among_those_of_their_parents() -> None:
    dims = (Dim(2, 6, "head"), Dim(3, 2, "dim"), Dim(2, 1))
    tensor = BoundTensor(("w",), False, (12,), (Block(0, dims),), True)
    source = grown_axes(tensor, NewSizes({"dim": 4}))[0].source
    assert source.tolist() == [0, 1, 2, 3, 4, 5, -1, -1, 6, 7, 8, 9, 10, 11, -1, -1]


def test_parts_of_an_axis_that_would_be_of_several_widths_are_refused() -> None:
    upper = Block(0, (Dim(2, 4), Dim(4, 1, "a")))
    lower = Block(8, (Dim(2, 4), Dim(4, 1, "b")))
    tensor = BoundTensor(("w",), False, (4, 4), (upper, lower), True)
    assert len(grown_axes(tensor, NewSizes({"a": 6, "b": 6}))[1]) == 6
    with pytest.raises(UsageError, match="w is cut into parts that would not be of one width"):
        grown_axes(tensor, NewSizes({"a": 6}))


def test_units_that_alternate_keep_their_number_and_others_beside_them_grow() -> None:
    rows = (Dim(2, 5, "out"), Dim(3, 2, "a")), (Dim(2, 5, "out"), Dim(2, 2, "b"))
    blocks = tuple(Block(start, dims) for start, dims in enumerate(rows))
    tensor = BoundTensor(("w",), False, (2, 5), blocks, True)
    grown = grown_axes(tensor, NewSizes({"out": 3}))
    assert {axis: found.source.tolist() for axis, found in grown.items()} == {0: [0, 1, NEW]}
    with pytest.raises(UsageError, match="units of 'b' alternate with others in w"):
        grown_axes(tensor, NewSizes({"b": 3}))
