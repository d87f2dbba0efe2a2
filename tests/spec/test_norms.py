"""Classes of maps and norms in the language: read, written back, and refused in their place."""

import pytest

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Norm
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import bound, spec_text

TENSORS = [
    "embed.weight: [~, s]",
    "{i}.norm.{weight,bias}: [s]",
    "{i}.a.weight: [h.{i}, s]",
    "{i}.a.bias?: [h.{i}]",
    "{i}.b.weight: [s, h.{i}]",
    "head.weight?: [~, s]",
    "norm.weight: [s]",
]
NORMS = """\
norms:
  "{i}.norm.weight": {kind: layer, readers: ["{i}.a.weight"]}
  norm.weight: {kind: rms, readers: [head.weight], tied: embed.weight, one-plus: [gemma]}
"""
SHAPES = {
    "embed.weight": (5, 4),
    "0.norm.weight": (4,),
    "0.norm.bias": (4,),
    "0.a.weight": (3, 4),
    "0.a.bias": (3,),
    "0.b.weight": (4, 3),
    "norm.weight": (4,),
}
HEAD = 'groups:\n  s: {maps: orthogonal}\n  "h.{i}": {maps: signed}\n'


def test_a_spec_with_classes_and_norms_is_written_and_read_back_equal():
    spec = parse(spec_text(TENSORS, HEAD) + NORMS)
    assert spec.groups["s"].maps == "orthogonal"
    assert spec.norms["{i}.norm.weight"] == Norm("layer", ("{i}.a.weight",))
    assert spec.norms["norm.weight"] == Norm(
        "rms", ("head.weight",), tied="embed.weight", one_plus=("gemma",)
    )
    assert parse(dump(spec)) == spec
    assert dump(parse(dump(spec))) == dump(spec)


def test_norms_are_bound_to_the_names_of_a_checkpoint():
    found = bound(TENSORS, SHAPES, head=HEAD + NORMS, config={"model_type": "gemma"})
    first, last = found.norms
    assert (first.gain, first.bias, first.kind) == ("0.norm.weight", "0.norm.bias", "layer")
    assert (first.readers, first.offset, first.tied) == (("0.a.weight",), 0, False)
    assert (last.readers, last.offset, last.tied) == (("embed.weight",), 1, True)


@pytest.mark.parametrize(("config", "offset"), [({"model_type": "llama"}, 0), ({}, None)])
def test_the_configuration_says_whether_one_is_added_to_a_gain(config, offset):
    found = bound(TENSORS, SHAPES, head=HEAD + NORMS, config=config)
    assert found.norms[1].offset == offset


@pytest.mark.parametrize(
    ("config", "holds"), [({"model_type": "y"}, True), ({"model_type": "x"}, False), ({}, True)]
)
def test_maps_are_those_of_the_model_types_that_a_spec_names(config, holds):
    tensors = [*TENSORS, '"turn.{q,k}": ["head * r", s]', 'out: [s, "head * r"]']
    head = HEAD.replace("groups:", "model-types: [gemma, y]\ngroups:\n  head: {size: 2}")
    head += "  r: {per: head, maps: rotary}\n"
    shapes = {**SHAPES, "turn.q": (8, 4), "turn.k": (8, 4), "out": (4, 8)}
    found = bound(tensors, shapes, head=head + NORMS, config=config)
    assert (found.groups["s"].maps, found.groups["r"].maps) == (
        ("orthogonal", "rotary") if holds else ("permutation", "permutation")
    )
    assert found.groups["r"].fixed, "the order of rotary dims stays"
    assert parse(dump(found.spec)) == found.spec


def test_a_stored_head_is_the_reader_and_no_tie():
    found = bound(TENSORS, {**SHAPES, "head.weight": (5, 4)}, head=HEAD + NORMS)
    assert (found.norms[1].readers, found.norms[1].tied) == (("head.weight",), False)


def test_an_alias_of_the_embedding_is_a_tied_head():
    shapes = {**SHAPES, "head.weight": (5, 4)}
    ties = {"head.weight": "embed.weight"}
    found = bound(TENSORS, shapes, head=HEAD + NORMS, ties=ties)
    assert (found.norms[1].readers, found.norms[1].tied) == (("embed.weight",), True)


def test_what_rotates_is_held_where_its_parent_is_not_beside_it():
    tensors = ["q: [head * r, ~]", "k: [head * r, ~]", "norm.weight?: [r]", "out: [~, head * v]"]
    tensors = [line.replace("[head * r, ~]", '["head * r", ~]') for line in tensors]
    tensors = [line.replace("[~, head * v]", '[~, "head * v"]') for line in tensors]
    tensors.append('value: ["head * v", ~]')
    head = "groups:\n  head: {size: 2}\n  r: {per: head, maps: rotary}\n  v: {per: head}\n"
    shapes = {"q": (8, 3), "k": (8, 3), "out": (3, 6), "value": (6, 3)}
    free = bound(tensors, shapes, head=head).groups["r"]
    held = bound(tensors, {**shapes, "norm.weight": (4,)}, head=head).groups["r"]
    assert (free.maps, free.parents, free.fixed) == ("rotary", ("head",), True)
    assert (held.maps, held.parents, held.fixed) == ("permutation", (), True)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("maps: orthogonal", "maps: orthogonl", "'maps' is the name of a class of maps"),
        ("kind: layer", "kind: batch", "'kind' of a norm is not 'batch'"),
        ('readers: ["{i}.a.weight"]', "bias: x", "a norm names the weights that read it"),
        ('["{i}.a.weight"]', '["{j}.a.weight"]', "unknown index {j}"),
        ("kind: rms,", "kind: rms, gain: 2,", "unknown key 'gain'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(old, new, what):
    text = (spec_text(TENSORS, HEAD) + NORMS).replace(old, new, 1)
    with pytest.raises(SpecError) as told:
        parse(text, source="s.yaml")
    assert what in str(told.value)
    assert "s.yaml:" in str(told.value)
