"""A spec in a model's names, in the names under which files store the tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.errors import SpecError
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec.binding.stored_names import scattered_groups, stored_spec
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, TensorInfo
from rebasin_cli.tensors.blocks import Window

E, H, S = 3, 4, 5
MODEL = """
rebasin: 1
groups:
  hidden: {per: expert}
tensors:
  embed: [~, stream]
  gate: [expert, stream]
  up: [expert, "hidden + hidden", stream]
  down: [expert, stream, hidden]
"""
SHAPES = {"embed": (7, S), "gate": (E, S), "up": (E, 2 * H, S), "down": (E, S, H)}


def infos(shapes=SHAPES):
    return {name: TensorInfo(name, shape, torch.float32) for name, shape in shapes.items()}


def windows():
    """Return experts as separate tensors, the two halves of `up` as well."""
    found = {name: Window.whole(infos()[name]) for name in ("embed", "gate")}
    found = {f"model.{name}": window for name, window in found.items()}
    for e in range(E):
        start = e * 2 * H * S
        found[f"model.x.{e}.w1"] = Window("up", (H, S), (S, 1), start)
        found[f"model.x.{e}.w3"] = Window("up", (H, S), (S, 1), start + H * S)
        found[f"model.x.{e}.w2"] = Window("down", (S, H), (H, 1), e * S * H)
    return found


def stored(text=MODEL, shapes=SHAPES, places=None):
    spec = parse(text)
    sizes = {group.name: group.size for group in bind(spec, infos(shapes)).groups.values()}
    return stored_spec(spec, infos(shapes), windows() if places is None else places, sizes)


def cut(state, places):
    """Return the stored tensors of a state."""
    return {
        name: state[w.source].as_strided(w.shape, w.strides, w.offset).clone()
        for name, w in places.items()
    }


def test_what_files_may_leave_out_stays_optional_under_its_stored_name():
    tied = "  head?: [~, stream]\n"
    shapes = {**SHAPES, "head": SHAPES["embed"]}
    places = {**windows(), "model.out": Window.whole(TensorInfo("head", (7, S), torch.float32))}
    assert "model.out?: [~, stream]" in dump(stored(MODEL + tied, shapes, places))


def test_a_stack_of_experts_becomes_an_axis_of_names():
    text = dump(stored())
    assert "model.x.[e].w1: [expert, hidden, stream]" in text
    assert "model.x.[e].w3: [expert, hidden, stream]" in text
    assert "model.x.[e].w2: [expert, stream, hidden]" in text
    assert "model.gate: [expert, stream]" in text


@given(st.integers(0, 2**31))
def test_permuting_what_is_stored_is_storing_what_is_permuted(seed):
    generator = torch.Generator().manual_seed(seed)
    state = {n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}
    bound = bind(parse(MODEL), infos())
    permutations = draw_permutations(bound.groups.values(), generator)
    moved = Permuted(InMemory(state), bound.tensors, permutations)
    before = cut({name: moved.load(name).contiguous() for name in state}, windows())
    files = InMemory(cut(state, windows()))
    there = bind(stored(), {name: files.info(name) for name in files.names()})
    after = Permuted(files, there.tensors, permutations)
    assert {g.name: g.shape for g in there.groups.values()} == {
        g.name: g.shape for g in bound.groups.values()
    }
    assert all(torch.equal(before[name], after.load(name)) for name in before)


def test_lists_of_patterns_follow_their_tensors():
    spec = stored(MODEL.replace("groups:", "buffers: [gate]\ntransposed: [embed, up]\ngroups:"))
    assert spec.buffers == ("model.gate",)
    assert spec.transposed == ("model.embed", "model.x.[e].w1", "model.x.[e].w3")


def test_a_transposed_part_has_its_axes_in_its_own_order():
    shapes = {"a": (6, S), "b": (S, 2)}
    places = {"file.a": Window("a", (S, 6), (1, S)), "b": Window.whole(infos(shapes)["b"])}
    text = "rebasin: 1\ntensors:\n  a: [6, stream]\n  b: [stream, ~]\n"
    assert "file.a: [stream, 6]" in dump(stored(text, shapes, places))


def test_a_part_of_a_repeated_product_is_fewer_of_them():
    shapes = {"a": (3 * H, S), "b": (2, H), "c": (S, 2)}
    places = {name: Window.whole(infos(shapes)[name]) for name in "bc"}
    places |= {
        "a.q": Window("a", (H, S), (S, 1)),
        "a.kv": Window("a", (2 * H, S), (S, 1), H * S),
    }
    text = 'rebasin: 1\ntensors:\n  a: ["3 * unit", s]\n  b: [~, unit]\n  c: [s]\n'
    found = dump(stored(text, shapes, places))
    assert "a.q: [unit, s]" in found
    assert 'a.kv: ["2 * unit", s]' in found


@pytest.mark.parametrize("shape", [(6,), (6, 1, 4)])  # of a convolution of each channel
def test_a_split_tensor_that_is_stored_whole_stays_split(shape):
    text = """
rebasin: 1
tensors:
  joint: {split: 0, parts: [[one], [two]]}
  a: [one, ~]
  b: [~, one]
  c: [two, ~]
  d: [~, two]
"""
    shapes = {"joint": shape, "a": (2, 3), "b": (3, 2), "c": (4, 3), "d": (3, 4)}
    whole = {f"m.{name}": Window.whole(info) for name, info in infos(shapes).items()}
    assert stored(text, shapes, whole).tensors["m.joint"] == parse(text).tensors["joint"]


def test_a_part_of_a_split_tensor_has_the_axes_of_that_part():
    shapes = {"a": (2 * H, S), "b": (2, H), "c": (S, 2), "d": (S, 2)}
    places = {name: Window.whole(infos(shapes)[name]) for name in "bcd"}
    places |= {"a.q": Window("a", (H, S), (S, 1)), "a.k": Window("a", (H, S), (S, 1), H * S)}
    parts = '{split: 0, parts: [["unit", one], ["unit", two]]}'
    text = f"rebasin: 1\ntensors:\n  a: {parts}\n  b: [~, unit]\n  c: [one]\n  d: [two]\n"
    found = dump(stored(text, shapes, places))
    assert "a.q: [unit, one]" in found
    assert "a.k: [unit, two]" in found


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (Window("a", (2, S), (S, 1)), "part is a part of a whose ends are not those of a group"),
        (Window("a", (H, 2), (S, 2)), "part is not a part of a that axes could describe"),
        (Window("a", (H + 1, S), (S, 1)), "part is not a part of a that axes could describe"),
    ],
)
def test_what_cannot_be_said_as_axes_is_refused(window, said):
    shapes = {"a": (H, S), "b": (2, H), "c": (S, 2)}
    text = "rebasin: 1\ntensors:\n  a: [unit, s]\n  b: [~, unit]\n  c: [s]\n"
    with pytest.raises(SpecError, match=said):
        stored(text, shapes, {"part": window})


def test_names_that_are_no_stack_are_refused():
    places = windows()
    places["model.x.one.w2"] = places.pop("model.x.1.w2")
    with pytest.raises(SpecError, match="down is stored as 3 tensors that are not a stack"):
        stored(places=places)


def test_experts_that_move_in_teams_are_no_axis_of_names():
    shapes = {"gate": (6, S), "up": (6, H, S), "down": (6, S, H), "out": (2, S)}
    places = {n: Window.whole(infos(shapes)[n]) for n in ("gate", "out")}
    places |= {f"x.{e}.up": Window("up", (H, S), (S, 1), e * H * S) for e in range(6)}
    places |= {f"x.{e}.down": Window("down", (S, H), (H, 1), e * S * H) for e in range(6)}
    text = """
rebasin: 1
groups: {hidden: {per: team}}
tensors:
  gate: ["team * 3", s]
  up: ["team * 3", hidden, s]
  down: ["team * 3", s, hidden]
  out: [~, s]
"""
    assert scattered_groups(parse(text), infos(shapes), places) == {"team", "hidden"}
    assert scattered_groups(parse(MODEL), infos(), windows()) == frozenset()


def test_what_does_not_move_is_no_stack_either():
    shapes = {"up": (2, H, S), "down": (2, S, H), "out": (2, S)}
    places = {"out": Window.whole(infos(shapes)["out"])}
    places |= {f"x.{e}.up": Window("up", (H, S), (S, 1), e * H * S) for e in range(2)}
    places |= {f"x.{e}.down": Window("down", (S, H), (H, 1), e * S * H) for e in range(2)}
    text = "rebasin: 1\ngroups: {h: {one-sided: true}, s: {one-sided: true}}\n"
    text += "tensors:\n  up: [2, h, s]\n  down: [2, s, h]\n  out: [~, s]\n"
    assert "x.1.up: [h, s]" in dump(stored(text, shapes, places))
