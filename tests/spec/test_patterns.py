"""Which tensors a pattern names, what its indices mean, and who votes."""

import pytest

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import blocks_of, bound, group_shapes, infos, spec_text


def names_to_groups(lines, shapes):
    spec = bound(lines, shapes)
    return {t.members[0]: [d.group for d in t.blocks[0].dims] for t in spec.tensors}


def test_neighbours_are_the_indices_that_exist():
    lines = ["{i}.weight: [c.{i}, c.{i.prev}]", "{first}.weight: [c.{first}, ~]"]
    lines += ["{last}.weight: [~, c.{last.prev}]"]
    shapes = {f"{k}.weight": (3, 3) for k in (10, 0, 4, 2)}
    assert names_to_groups(lines, shapes) == {
        "10.weight": [None, "c.4"],
        "0.weight": ["c.0", None],
        "4.weight": ["c.4", "c.2"],
        "2.weight": ["c.2", "c.0"],
    }


def test_next_and_chains_of_steps():
    lines = ["a.{i}.w: [c.{i}, c.{i.next.next.prev}]", "a.{last}.w: [c.{last}, c.{first}]"]
    shapes = {f"a.{k}.w": (3, 3) for k in (1, 5, 7)}
    assert names_to_groups(lines, shapes) == {
        "a.1.w": ["c.1", "c.5"],
        "a.5.w": ["c.5", "c.7"],
        "a.7.w": ["c.7", "c.1"],
    }


def test_each_place_has_indices_of_its_own():
    lines = ["s.{s}.{b}.w: [g.{s}.{b}, g.{s}.{b}]", "s.{s}.{first}.w: [g.{s}.{last}, ~]"]
    lines += ["s.{s}.{last}.w: [~, g.{s}.{last}]"]
    shapes = {f"s.{s}.{b}.w": (3, 3) for s, b in [(0, 1), (0, 2), (1, 4), (1, 5), (1, 6)]}
    assert names_to_groups(lines, shapes) == {
        "s.0.1.w": ["g.0.2", None],
        "s.0.2.w": [None, "g.0.2"],
        "s.1.4.w": ["g.1.6", None],
        "s.1.5.w": ["g.1.5", "g.1.5"],
        "s.1.6.w": [None, "g.1.6"],
    }


def test_an_end_without_an_index_is_that_of_the_groups_of_other_entries():
    lines = ["c.{i}.w: [c.{i}, c.{i}]", 'fc.0.w: [fc, "c.{last} * 4"]', "fc.3.w: [~, fc]"]
    shapes = {"c.2.w": (2, 2), "c.11.w": (3, 3), "fc.0.w": (5, 12), "fc.3.w": (2, 5)}
    assert names_to_groups(lines, shapes)["fc.0.w"] == ["fc", "c.11", None]


def test_the_same_index_twice_is_equal():
    lines = ["a.{i}.b.{i}: [x, x]", "a.{i}.b.{j}: [~]"]
    shapes = {"a.1.b.1": (3, 3), "a.1.b.2": (3, 3)}
    assert names_to_groups(lines, shapes) == {"a.1.b.1": ["x", "x"], "a.1.b.2": [None]}


def test_an_index_is_a_whole_decimal():
    lines = ["a{i}.w: [x, x]", '"*": [~]']
    shapes = {"a12.w": (3, 3), "a02.w": (3, 3), "a1x.w": (3, 3)}
    found = names_to_groups(lines, shapes)
    assert [found["a12.w"], found["a02.w"], found["a1x.w"]] == [["x", "x"], [None], [None]]


def test_the_most_specific_pattern_wins():
    lines = ["b.{i}.w: [i, i]", "b.2.w: [two, two]", "b.{first}.w: [f, f]", "b.1.w: [one, one]"]
    lines += ['"*.w": [glob, glob]', "b.{last}.w: [l, l]"]
    shapes = {f"b.{k}.w": (3, 3) for k in (1, 2, 3, 4)} | {"c.w": (3, 3)}
    found = {name: groups[0] for name, groups in names_to_groups(lines, shapes).items()}
    assert list(found.values()) == ["one", "two", "i", "l", "glob"]


def test_alternatives_may_be_absent_empty_and_dotted():
    lines = ["a{,.fc1,.mlp.fc1}.{weight,v}: [x, x]"]
    shapes = {"a.weight": (3, 3), "a.mlp.fc1.weight": (3, 3), "b": (2,)}
    assert set(names_to_groups(lines, shapes)) == {"a.weight", "a.mlp.fc1.weight"}


# sides


def test_a_first_layer_of_one_channel_writes():
    shapes = {"a": (4, 1, 3, 3), "b": (2, 4)}
    assert group_shapes(bound(["a: [x, ~]", "b: [~, x]"], shapes)) == {"x": (4,)}


def test_a_transposed_layer_to_one_channel_reads():
    lines, shapes = ["a: [x, ~]", "up: [x, ~, ~]"], {"a": (4, 3), "up": (4, 1, 2)}
    assert group_shapes(bound(lines, shapes, head="transposed: [up]\n")) == {"x": (4,)}
    with pytest.raises(SpecError, match="only writes"):
        bound(lines, shapes)


def test_a_batch_of_matrices_reads_and_writes_its_batch():
    lines = ["q: [head, d, ~]", "w: [head, d, x]", "x: [x, ~]"]
    shapes = {"q": (2, 3, 4), "w": (2, 3, 4), "x": (4, 5)}
    spec = bound(lines, shapes, head="groups: {d: {per: head}}\n")
    assert group_shapes(spec) == {"head": (2,), "d": (2, 3), "x": (4,)}


def test_transposed_swaps_the_sides():
    lines, shapes = ["a: [~, x]", "b: [~, x]"], {"a": (5, 3), "b": (7, 3)}
    with pytest.raises(SpecError, match="only reads"):
        bound(lines, shapes)
    assert group_shapes(bound(lines, shapes, head="transposed: [a]\n")) == {"x": (3,)}


# ties


def test_a_tied_tensor_follows_its_twin_and_does_not_vote():
    lines = ["emb: [~, x]", "w: [x, ~]"]
    shapes = {"emb": (5, 3), "head": (5, 3), "w": (3, 2)}
    spec = bound(lines, shapes, ties={"head": "emb"})
    assert [(t.members[0], t.votes) for t in spec.tensors] == [
        ("emb", True),
        ("head", False),
        ("w", True),
    ]
    assert blocks_of(spec, "head") == blocks_of(spec, "emb")
    assert spec.untouched == ()


def test_the_canonical_tensor_takes_its_alias_s_entry():
    shapes = {"emb": (5, 3), "head": (5, 3), "w": (3, 2)}
    spec = bound(["head: [~, x]", "w: [x, ~]"], shapes, ties={"head": "emb"})
    assert [(t.members[0], t.votes) for t in spec.tensors][:2] == [("emb", True), ("head", False)]


def test_a_spec_may_name_the_tied_tensor_that_the_file_does_not_store():
    shapes = {"emb": (5, 3), "w": (3, 2)}
    spec = bound(["head: [~, x]", "w: [x, ~]"], shapes, ties={"head": "emb"})
    assert [(t.members, t.votes) for t in spec.tensors] == [(("emb",), True), (("w",), True)]


def test_binding_needs_only_text_and_headers():
    spec = parse(spec_text(["a: [x, ~]", "b: [~, x]"]))
    assert bind(spec, infos({"a": (3, 2), "b": (2, 3)})).spec is spec
