"""Groups that never move: `fixed: true`."""

import pytest
import torch

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bound import BoundGroup, draw_permutations
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.library import bundled_names, load_spec
from tests.spec.shapes import bound, group_shapes, spec_text

HEADS = ["in: ['head * d', ~]", "out: [~, 'head * d']"]
SHAPES = {"in": (12, 5), "out": (5, 12)}
DECLARED = "groups: {head: {size: 4, fixed: true}, d: {per: head}}\n"


def test_a_fixed_group_says_so_and_has_children():
    spec = bound(HEADS, SHAPES, head=DECLARED)
    assert list(spec.groups.values()) == [
        BoundGroup("head", (4,), fixed=True),
        BoundGroup("d", (4, 3), ("head",)),
    ]


def test_a_declaration_with_a_template_fixes_each_of_its_groups():
    lines = [line.replace("head", "head.{i}").replace("d'", "d.{i}'") for line in HEADS]
    lines = [f"{{i}}.{line}" for line in lines]
    shapes = {f"{i}.{name}": shape for i in (0, 1) for name, shape in SHAPES.items()}
    declared = "groups: {head.{i}: {size: 4, fixed: true}, d.{i}: {per: head.{i}}}\n"
    groups = bound(lines, shapes, head=declared).groups
    assert [name for name, group in groups.items() if group.fixed] == ["head.0", "head.1"]


@pytest.mark.parametrize("lines", [["a: [p, ~]"], ["a: [~, p]"], ["n: [p]"]])
def test_a_fixed_group_need_not_be_written_and_read(lines):
    shapes = {"a": (4, 4), "n": (4,)}
    used = {name: shape for name, shape in shapes.items() if lines[0].startswith(name)}
    with pytest.raises(SpecError, match=r"only writes|only reads|no matrix"):
        bound(lines, used)
    assert group_shapes(bound(lines, used, head="groups: {p: {fixed: true}}\n")) == {"p": (4,)}


def test_a_fixed_child_may_occur_in_one_matrix():
    lines, shapes = [*HEADS, "n: ['head * k']"], SHAPES | {"n": (8,)}
    declared = "groups: {{head: {{size: 4}}, d: {{per: head}}, k: {{per: head{}}}}}\n"
    with pytest.raises(SpecError, match=r"'k' .* occurs in fewer than two matrices"):
        bound(lines, shapes, head=declared.format(""))
    spec = bound(lines, shapes, head=declared.format(", fixed: true"))
    assert spec.groups["k"] == BoundGroup("k", (4, 2), ("head",), fixed=True)


def test_the_parent_of_a_child_must_stand_beside_it_though_it_is_fixed():
    with pytest.raises(SpecError, match="which does not occur beside it"):
        bound([*HEADS, "c: [~, d]"], SHAPES | {"c": (5, 3)}, head=DECLARED)


def test_a_fixed_group_has_one_size_everywhere():
    with pytest.raises(SpecError, match="group 'p' has two sizes"):
        bound(["a: [p]", "b: [p]"], {"a": (4,), "b": (5,)}, head="groups: {p: {fixed: true}}\n")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("{fixed: true}", "{fixed: true}"),
        ("{fixed: true, size: 3}", "{size: 3, fixed: true}"),
        ("{size: 3, fixed: false}", "{size: 3}"),
        ("{fixed: false}", "{fixed: false}"),
    ],
)
def test_fixed_is_dumped_where_it_says_something(written, canonical):
    text = dump(parse(spec_text(["a: [g]"], head=f"groups: {{g: {written}}}\n")))
    assert f"  g: {canonical}\n" in text


def test_random_permutations_leave_fixed_groups_alone_and_move_the_others():
    groups = bound(HEADS, SHAPES, head=DECLARED).groups.values()
    found = draw_permutations(groups, torch.Generator().manual_seed(1))
    assert list(found) == ["head", "d"]
    assert found["head"].moved == 0
    assert found["d"].parents == ("head",)
    assert found["d"].moved > 0


def test_random_permutations_follow_their_seed():
    groups = bound(HEADS, SHAPES, head=DECLARED).groups.values()
    one, again, two = (
        draw_permutations(groups, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != two


def test_every_bundled_spec_can_be_asked_what_is_fixed():
    declared = {name: load_spec(name).groups for name in bundled_names()}
    held = {n for n, groups in declared.items() if any(d.fixed for d in groups.values())}
    assert "unet_sd1" in held and "vgg" not in held
