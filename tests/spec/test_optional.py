"""Patterns that end in `?` and may match nothing."""

import pytest

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.compression.draft import draft
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import blocks_of, bound, dims, group_shapes, infos, spec_text

CHAIN = ["a.weight: [x, ~]", "b.weight: [~, x]"]
SHAPES = {"a.weight": (4, 3), "b.weight": (2, 4)}


def problems(tensors, shapes, **options):
    with pytest.raises(SpecError) as caught:
        bound(tensors, shapes, **options)
    return caught.value.problems


def test_an_optional_pattern_may_match_nothing_and_speaks_for_what_it_matches():
    lines = [*CHAIN, "a.bias?: [x]"]
    assert group_shapes(bound(lines, SHAPES)) == {"x": (4,)}
    spec = bound(lines, SHAPES | {"a.bias": (4,)})
    assert [dims(block) for block in blocks_of(spec, "a.bias")] == ["x:4"]
    assert spec.untouched == ()


@pytest.mark.parametrize(
    "pattern", ["{i}.bias", "{i}.{bias,b}", "*.bias", "{first}.bias", "[e].bias", "0.bias"]
)
def test_every_kind_of_pattern_can_be_optional(pattern):
    lines = [*CHAIN, f'"{pattern}?": [x]']
    assert group_shapes(bound(lines, SHAPES)) == {"x": (4,)}
    if "[" not in pattern:
        spec = bound(lines, SHAPES | {"0.bias": (4,)})
        assert [dims(block) for block in blocks_of(spec, "0.bias")] == ["x:4"]


def test_being_optional_makes_a_pattern_no_more_and_no_less_specific():
    lines = [*CHAIN, "{i}.bias: [x]", "0.bias?: [~]"]
    spec = bound(lines, SHAPES | {"0.bias": (4,), "1.bias": (4,)})
    assert [dims(blocks_of(spec, f"{i}.bias")[0]) for i in (0, 1)] == ["4", "x:4"]
    (problem,) = problems([*CHAIN, "{i}.bias: [x]", "{j}.bias?: [~]"], SHAPES | {"0.bias": (4,)})
    assert problem.what == "two equally specific patterns match '0.bias'"


def test_buffers_and_transposed_may_be_optional():
    options = {"head": 'buffers: ["*.running_mean?"]\ntransposed: [c.weight?]\n'}
    spec = bound([*CHAIN, '"*.running_mean?": [x]'], SHAPES, **options)
    assert spec.buffers == frozenset()
    shapes = SHAPES | {"n.running_mean": (4,)}
    spec = bound([*CHAIN, '"*.running_mean?": [x]'], shapes, **options)
    assert spec.buffers == {"n.running_mean"}


def test_a_pattern_that_matches_nothing_hints_at_a_question_mark():
    (problem,) = problems([*CHAIN, "a.weigth: [x]"], SHAPES)
    assert problem.what == "pattern 'a.weigth' matches no tensor"
    assert problem.hint == "did you mean 'a.weight'? or write `a.weigth?` if a model may lack it"
    (problem,) = problems([*CHAIN, "zzz: [x]"], SHAPES)
    assert problem.hint == "write `zzz?` if a model may lack it"


# groups that exist only where an optional tensor does

GATED = [*CHAIN, "gate.weight?: [g, ~]", "up.weight?: [~, g]"]
DECLARED = "groups: {g: {size: 5}}\n"


def test_a_group_of_absent_tensors_does_not_exist_and_may_be_declared():
    assert group_shapes(bound(GATED, SHAPES, head=DECLARED)) == {"x": (4,)}
    shapes = SHAPES | {"gate.weight": (5, 3), "up.weight": (2, 5)}
    assert group_shapes(bound(GATED, shapes, head=DECLARED)) == {"x": (4,), "g": (5,)}


def test_templates_of_absent_groups_may_be_declared_too():
    lines = [
        *CHAIN,
        "layers.{i}.in?: ['h.{i} * d.{i}', ~]",
        "layers.{i}.out?: [~, 'h.{i} * d.{i}']",
    ]
    declared = "groups: {h.{i}: {size: 2}, d.{i}: {per: h.{i}}}\n"
    assert group_shapes(bound(lines, SHAPES, head=declared)) == {"x": (4,)}


def test_a_declaration_that_no_entry_names_is_still_an_error():
    (problem,) = problems(GATED, SHAPES, head="groups: {gg: {size: 5}}\n")
    assert problem.what == "no group is called 'gg'"


def test_a_group_that_lost_its_reader_with_an_optional_tensor_is_one_sided():
    shapes = SHAPES | {"gate.weight": (5, 3)}
    (problem,) = problems(GATED, shapes, head=DECLARED)
    assert problem.what == "group 'g' only writes: nothing reads its units"


def test_an_absent_entry_of_a_group_hides_no_problem_of_the_group():
    (problem,) = problems(["a.weight: [x, ~]", "b.weight?: [~, x]"], {"a.weight": (4, 3)})
    assert problem.what == "group 'x' only writes: nothing reads its units"


# text


def test_optional_patterns_need_no_quotes_and_survive_their_canonical_text():
    spec = parse(spec_text(["a.{i}.{q,k}_proj.bias?: [x.{i}]"]))
    assert list(spec.tensors) == ["a.{i}.{q,k}_proj.bias?"]
    assert '  a.{i}.{q,k}_proj.bias?: ["x.{i}"]\n' in dump(spec)
    assert parse(dump(spec)) == spec


def test_a_question_mark_inside_a_pattern_is_a_character():
    spec = bound([*CHAIN, "a?.weight: [~]", '"b??": [~]'], SHAPES | {"a?.weight": (3,), "b?": (1,)})
    assert spec.untouched == ()


def test_a_draft_does_not_name_what_a_question_mark_would_make_optional():
    text = draft(infos({"a?": (2,), "b": (2,)}))
    assert list(parse(text).tensors) == ["b"]
    assert "# cannot be named here: 'a?'" in text
