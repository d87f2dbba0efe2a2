"""Every bundled spec, and every construct of the language, is proved on a network that has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind, uncovered_tensors
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos
from tests.library.table import ENTRIES
from tests.models import EXAMPLES
from tests.proof import BROKEN, EXACT, corrupted, difference, draw, stored

FOLDER = Path(__file__).parents[1] / "specs"
SPECS = {
    path.stem: parse(path.read_text("utf-8"), source=path.name) for path in FOLDER.glob("*.yaml")
}
TWINS = 16  # wrong specs that the quick test tries for each network, spread over its tensors

# Example, its bundled spec, and how many groups it has, counted by hand.
BUNDLED = [
    ("mlp_sequential", "mlp", 3),  # hidden layers
    ("mlp_layers", "mlp", 3),
    ("vgg11", "vgg", 8 + 2),  # convolutions, then linear layers
    ("vgg13", "vgg", 10 + 2),
    ("vgg16", "vgg", 13 + 2),
    ("vgg19", "vgg", 16 + 2),
    ("vgg11_bn", "vgg11_bn", 8 + 2),
    ("vgg13_bn", "vgg13_bn", 10 + 2),
    ("vgg16_bn", "vgg16_bn", 13 + 2),
    ("vgg19_bn", "vgg19_bn", 16 + 2),
    ("resnet18", "resnet-basic", 4 + 8),  # stages, then one for each block
    ("resnet34", "resnet-basic", 4 + 16),
    ("resnet50", "resnet-bottleneck", 1 + 4 + 2 * 16),  # stem, stages, two for each block
    ("resnet101", "resnet-bottleneck", 1 + 4 + 2 * 33),
    ("resnet152", "resnet-bottleneck", 1 + 4 + 2 * 50),
    ("resnet20_stages", "resnet20-cifar", 3 + 9),
    ("resnet20_shortcut", "resnet20-cifar", 3 + 9),
    ("resnet20_downsample", "resnet20-cifar", 3 + 9),
    ("cifar_plain", "resnet20-plain", 3 + 5),
    ("cifar_nobias", "resnet20-plain", 3 + 5),
    ("cifar_ln", "resnet20-ln", 3 + 5),
    ("cifar_fixup", "resnet20-plain", 3 + 5),
    ("cifar_padded", "resnet20-fixup", 3 + 5),  # the new channels of each stage
    ("mlp_layers_nobias", "mlp", 3),
    ("vgg11_nobias", "vgg", 8 + 2),
    ("vgg11_small", "vgg-cifar", 8),
    ("vgg11_bn_small", "vgg11_bn", 8),
    ("vgg11_bn_nobias", "vgg11_bn", 8 + 2),
    ("resnet18_nobias", "resnet-basic", 4 + 8),
    ("nano_gpt", "preln-gpt", 1 + 3 * 4),
    ("vit_flat_nobias", "preln-vit", 1 + 3 * 4),
    ("vit_timm", "preln-vit", 1 + 3 * 4),  # stream, then head, qk, vo, hidden for each block
    ("vit_flat", "preln-vit", 1 + 3 * 4),
    ("char_gpt", "preln-gpt", 1 + 3 * 4),
    ("llama", "llama", 1 + 2 * 6),  # stream, then kv, q, rope, vo, hidden, sign for each layer
    ("llama_biased", "llama", 1 + 2 * 6),
    ("qwen2", "llama", 1 + 2 * 6),
    ("qwen3", "llama", 1 + 2 * 6),
]

CONSTRUCTS = {
    # One group on both axes of a matrix.
    "mlp_residual": (
        1,
        """
  inp.weight: [stream, ~]
  {inp.bias,blocks.0.bias,blocks.1.bias,blocks.2.bias}: [stream]
  blocks.{i}.weight: [stream, stream]
  out.weight: [~, stream]
  out.bias: [~]
""",
    ),
    # An axis made of names, with a permutation inside each member.
    "moe": (
        1 + 2 * 2,
        """
  inp.weight: [stream, ~]
  inp.bias: [stream]
  layers.{i}.router.weight: [expert.{i}, stream]
  layers.{i}.router.bias: [expert.{i}]
  layers.{i}.experts.[e].{w1,w3}.weight: [expert.{i}, hidden.{i}, stream]
  layers.{i}.experts.[e].w2.weight: [expert.{i}, stream, hidden.{i}]
  out.weight: [~, stream]
  out.bias: [~]
groups:
  hidden.{i}: {per: expert.{i}}
""",
    ),
    # A product over a sum: each head's rows for queries, keys and values stand together.
    "interleaved_heads": (
        4,
        """
  inp.weight: [stream, ~]
  {inp,dense}.bias: [stream]
  qkv.weight: ["head * (qk + qk + vo)", stream]
  qkv.bias: ["head * (qk + qk + vo)"]
  dense.weight: [stream, "head * vo"]
  out.weight: [~, stream]
  out.bias: [~]
groups:
  head: {size: 4}
  qk: {per: head}
  vo: {per: head}
""",
    ),
    # The same with several query heads in front of each key.
    "interleaved_groups": (
        5,
        """
  inp.weight: [stream, ~]
  {inp,dense}.bias: [stream]
  qkv.weight: ["kv * (q * qk + qk + vo)", stream]
  qkv.bias: ["kv * (q * qk + qk + vo)"]
  dense.weight: [stream, "kv * q * vo"]
  out.weight: [~, stream]
  out.bias: [~]
groups:
  kv: {size: 4}
  q: {per: kv, size: 3}
  qk: {per: kv}
  vo: {per: kv}
""",
    ),
    # Heads that differ in what no tensor holds, and must stay: only the dims inside them move.
    "alibi": (
        4,
        """
  inp.weight: [stream, ~]
  {inp,dense}.bias: [stream]
  qkv.weight: ["head * (qk + qk + vo)", stream]
  qkv.bias: ["head * (qk + qk + vo)"]
  dense.weight: [stream, "head * vo"]
  out.weight: [~, stream]
  out.bias: [~]
groups:
  head: {size: 4, fixed: true}
  qk: {per: head}
  vo: {per: head}
""",
    ),
    # Four gates in a row that one permutation moves alike; recurrent weights have it twice.
    "lstm": (
        2,
        """
  lstm.weight_ih_l{i}: ["4 * unit.{i}", unit.{i.prev}]
  lstm.weight_ih_l{first}: ["unit.{first} + unit.{first} + unit.{first} + unit.{first}", ~]
  lstm.weight_hh_l{i}: ["4 * unit.{i}", unit.{i}]
  lstm.{bias_ih_l,bias_hh_l}{i}: ["4 * unit.{i}"]
  head.weight: [~, "unit.{last}"]
  head.bias: [~]
""",
    ),
    # One tensor whose rows read two different streams.
    "cross_attention": (
        5,
        """
  decoder.weight: [dec, ~]
  {decoder,attn.out_proj}.bias: [dec]
  encoder.weight: [enc, ~]
  encoder.bias: [enc]
  attn.in_proj_weight:
    {split: 0, parts: [["head * qk", dec], ["head * qk + head * vo", enc]]}
  attn.in_proj_bias: ["head * qk + head * qk + head * vo"]
  attn.out_proj.weight: [dec, "head * vo"]
  head.weight: [~, dec]
  head.bias: [~]
groups:
  head: {size: 4}
  qk: {per: head}
  vo: {per: head}
""",
    ),
}


def case(example: str) -> tuple[Spec, int]:
    """Return the spec of an example, and the number of groups it must have."""
    for name, spec, count in BUNDLED:
        if name == example:
            return SPECS[spec], count
    count, tensors = CONSTRUCTS[example]
    return parse(f"rebasin: 1\ntensors:{tensors}", source=example), count


def bound_to(spec: Spec, state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> BoundSpec:
    known = {name: size for name, size in sizes.items() if name in spec.sizes}
    return bind(spec, infos(InMemory(state)), sizes=known)


CASES = [*(name for name, _, _ in BUNDLED), *CONSTRUCTS]


@pytest.mark.parametrize("name", CASES)
def test_permuting_every_group_leaves_the_outputs_alone(name: str) -> None:
    (spec, count), example = case(name), EXAMPLES[name]
    model = example.model(seed=1)
    bound = bound_to(spec, stored(model), example.sizes)
    assert len(bound.groups) == count
    assert uncovered_tensors(bound, infos(InMemory(stored(model)))) == ()
    permutations = draw(bound, seed=2)
    assert all(p.moved or bound.groups[name].fixed for name, p in permutations.items())
    assert difference(model, example.batch(), bound, permutations) < EXACT


@pytest.mark.parametrize(("name", "lost"), [("nano_gpt", "transformer.wpe"), ("vit_flat", "pos")])
def test_without_positions_that_are_added_others_may_turn_queries(name: str, lost: str) -> None:
    state = stored(EXAMPLES[name].model())
    kept = {n: t for n, t in state.items() if not n.startswith(lost)}
    with pytest.raises(SpecError, match="matches no tensor"):
        bound_to(case(name)[0], kept, EXAMPLES[name].sizes)


def test_heads_with_slopes_of_their_own_are_no_group_that_moves() -> None:
    example = EXAMPLES["alibi"]
    free = parse(f"rebasin: 1\ntensors:{CONSTRUCTS['alibi'][1]}".replace(", fixed: true", ""))
    model = example.model(seed=1)
    bound = bound_to(free, stored(model), {})
    moved = {name: p for name, p in draw(bound, seed=2).items() if name == "head"}
    assert difference(model, example.batch(), bound, moved) > BROKEN


def unnoticed(name: str, limit: int) -> list[str]:
    """Return which of about `limit` wrong specs of a network leave its outputs alone."""
    (spec, _), example = case(name), EXAMPLES[name]
    model = example.model(seed=1)
    bound = bound_to(spec, stored(model), example.sizes)
    twins = list(corrupted(model, example.batch(), bound, draw(bound, seed=2)))
    tried = twins[:: max(1, len(twins) // limit)]
    return [label for label, effect in tried if effect() < BROKEN]


@pytest.mark.parametrize("name", CASES)
def test_a_spec_with_one_axis_wrong_changes_the_outputs(name: str) -> None:
    assert unnoticed(name, TWINS) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_single_axis_of_a_spec_matters(name: str) -> None:
    assert unnoticed(name, limit=10**9) == []


# Of each kind one; the others are larger, or the same but for a layer.
ONE_OF_EACH = (
    "mlp_sequential",
    "vgg11_bn",
    "resnet18",
    "resnet20_stages",
    "char_gpt",
    "llama",
    "moe",
)
OTHERS = [pytest.param(n, marks=pytest.mark.slow) for n in EXAMPLES if n not in ONE_OF_EACH]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ONE_OF_EACH, *OTHERS])
def test_no_network_fits_two_bundled_specs(name: str) -> None:
    example = EXAMPLES[name]
    state = stored(example.model())
    fitting = set()
    for title, spec in SPECS.items():
        try:
            bound = bound_to(spec, state, example.sizes)
        except SpecError:
            continue
        if not uncovered_tensors(bound, infos(InMemory(state))):
            fitting.add(title)
    assert fitting == {spec for known, spec, _ in BUNDLED if known == name}


def test_every_bundled_spec_is_proved_under_the_name_of_its_file() -> None:
    assert {spec for _, spec, _ in BUNDLED} | set(ENTRIES) == set(SPECS)
    assert {title: spec.name for title, spec in SPECS.items()} == {title: title for title in SPECS}
