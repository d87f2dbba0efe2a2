"""Sizes that do not fit, and specs that are no symmetry: one row for each refusal."""

import pytest

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.model import Named, Product, Spec
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import bound, check_refusal, head, infos

CHAIN = ["a.weight: [x, ~]", "b.weight: [~, x]"]
SHAPES = {"a.weight": (4, 3), "b.weight": (2, 4)}


def problems(tensors, shapes, **options):
    with pytest.raises(SpecError) as caught:
        bound(tensors, shapes, **options)
    return caught.value.problems


# label: tensors, shapes, options, line:column, what, detail, hint
REFUSED = {
    "two sizes": (
        ["c.weight: [c3, ~]", "fc.weight: [~, c3]"],
        {"c.weight": (256, 3, 3, 3), "fc.weight": (9, 12544)},
        {},
        "4:18",
        "group 'c3' has two sizes",
        "c.weight[0] is 256, fc.weight[1] is 12544",
        '12544 = 256 * 49; a flattened (channel, h, w) axis is written "c3 * 49"',
    ),
    "declared size": (
        CHAIN,
        SHAPES,
        head(groups="{x: {size: 5}}"),
        "4:14",
        "group 'x' has two sizes",
        "its declaration says 5, a.weight[0] is 4",
        "",
    ),
    "named size": (
        ["a: [n, ~]"],
        {"a": (3, 4)},
        head(sizes="{n: 5}"),
        "4:7",
        "'n' does not fit",
        "a[0] is 3, not 5",
        "",
    ),
    "integer": (["a: [~, 10]"], {"a": (3, 12)}, {}, "3:10", "'10' does not fit", "a[1] is 12", ""),
    "product that does not fit": (
        ["a: [x, ~]", 'b: [~, "x * 3"]'],
        {"a": (4, 2), "b": (2, 13)},
        {},
        "4:11",
        "'x * 3' does not fit",
        "b[1] is 13, not 12; 'x': a[0] is 4",
        "",
    ),
    "product that does not divide": (
        ['a: ["x * 5", ~]', 'b: [~, "x * 5"]'],
        {"a": (12, 2), "b": (2, 12)},
        {},
        "3:8",
        "'x * 5' does not divide the axis",
        "a[0] is 12",
        "",
    ),
    "sum that leaves nothing": (
        ['a: ["x + 5", x]'],
        {"a": (5, 5)},
        {},
        "3:8",
        "'x + 5' does not divide the axis",
        "a[0] is 5",
        "",
    ),
    "no units": (
        ["a: [x, ~]", "b: [~, x]"],
        {"a": (0, 2), "b": (2, 0)},
        {},
        "3:7",
        "a group needs units",
        "a[0] is 0",
        "",
    ),
    "parts that cannot alternate": (
        ["a: [x, ~]", "b: [y, ~]", 'c: [~, "y | x"]'],
        {"a": (4, 2), "b": (2, 2), "c": (3, 6)},
        {},
        "5:11",
        "the parts of 'y | x' cannot alternate",
        "in c[1], 6 units in turn are [3, 3] in the parts, not [2, 4]",
        "parts behind one another are written with '+'",
    ),
    "the longer part comes first": (
        ["a: [x, ~]", "b: [y, ~]", 'c: [~, "(y | x) * 2"]'],
        {"a": (4, 2), "b": (3, 2), "c": (3, 14)},
        {},
        "5:12",
        "the parts of 'y | x' cannot alternate",
        "in c[1], 7 units in turn are [4, 3] in the parts, not [3, 4]",
        "",
    ),
    "sizes of two unknowns": (
        ['a: ["h * d", ~]', 'b: [~, "h * d"]'],
        {"a": (12, 2), "b": (2, 12)},
        {},
        "3:8",
        "the size of 'h' and 'd' cannot be inferred",
        "a[0] is 12 = h * d",
        "declare a `size:` under `groups:`",
    ),
    "square of an unknown": (
        ['a: ["h * h", h]'],
        {"a": (9, 3)},
        head(groups="{h: {size: k}}", sizes="{k: config.k}"),
        "2:10",
        "the size 'k' is not available",
        "config.json has no 'k'",
        "--set k=N",
    ),
    "config of the wrong type": (
        ['a: ["h * config.k.n", h]'],
        {"a": (9, 3)},
        {"config": {"k": {"n": "3"}}},
        "3:12",
        "the size 'config.k.n' is not available",
        "config.k.n is '3', not a positive integer",
        "--set config.k.n=N",
    ),
    "size that no one asked for": (
        CHAIN,
        SHAPES,
        {"sizes": {"haeds": 3}} | head(sizes="{heads: 2}"),
        "",
        "the spec has no size 'haeds'",
        "",
        "did you mean 'heads'?",
    ),
    "size that is negative": (
        ["a: [n]"],
        {"a": (3,)},
        {"sizes": {"n": -3}},
        "",
        "size 'n' is given as -3",
        "",
        "",
    ),
    # sides
    "only writes": (
        ["a: [p, ~]", "norm: [p]"],
        {"a": (4, 3), "norm": (4,)},
        {},
        "3:7",
        "group 'p' only writes: nothing reads its units",
        "it occurs in a[0], norm[0]",
        "name the tensor that reads it, or list tensors stored as (in, out)",
    ),
    "only reads": (
        ["a: [~, p]"],
        {"a": (4, 3)},
        {},
        "3:10",
        "group 'p' only reads: nothing writes its units",
        "it occurs in a[1]",
        "under `transposed:`",
    ),
    "norms only": (
        ["n.{weight,bias}: [p]"],
        {"n.weight": (4,), "n.bias": (4,)},
        {},
        "3:21",
        "group 'p' stands on no matrix",
        "it occurs in n.weight[0], n.bias[0]",
        "",
    ),
    "depthwise does not read": (
        ["a: [p, ~]", "dw: [p, ~, ~]"],
        {"a": (4, 3), "dw": (4, 1, 3)},
        {},
        "3:7",
        "group 'p' only writes",
        "",
        "",
    ),
    "depthwise and norm only": (
        ["dw: [p, ~, ~]", "norm: [p]"],
        {"dw": (4, 1, 3), "norm": (4,)},
        {},
        "3:8",
        "group 'p' stands on no matrix",
        "it occurs in dw[0], norm[0]",
        "",
    ),
    "child in one matrix": (
        ['a: ["h * d", ~]', 'b: [~, "h * 2"]', 'bias: ["h * d"]'],
        {"a": (6, 3), "b": (3, 6), "bias": (6,)},
        head(groups="{d: {per: h}}"),
        "4:12",
        "group 'd' (per h) occurs in fewer than two matrices",
        "it occurs in a[0], bias[0]",
        "",
    ),
    # per
    "child without its parent": (
        ['a: ["h * d", ~]', 'b: ["h * d"]', "c: [~, d]", 'e: [~, "h * d"]'],
        {"a": (6, 3), "b": (6,), "c": (3, 3), "e": (3, 6)},
        head(groups="{h: {size: 2}, d: {per: h}}"),
        "6:10",
        "group 'd' has one permutation per 'h', which does not occur beside it",
        "in c[1], a block of 3 * d",
        "write the parent beside it: h * d",
    ),
    "parent of two minds": (
        ['a: ["h * d", ~]', 'b: [~, "h * d"]', "c: [h, h, d]"],
        {"a": (6, 3), "b": (3, 6), "c": (2, 2, 3)},
        head(groups="{h: {size: 2}, d: {per: h}}"),
        "6:13",
        "group 'd' has one permutation per 'h', which occurs more than once beside it",
        "in c[2], a block of h * h * d",
        "",
    ),
    "grandparent missing": (
        ['a: ["l * h * d", x]', 'b: [x, "h * d"]', "c: [x, l]"],
        {"a": (24, 5), "b": (5, 12), "c": (5, 2)},
        head(groups="{l: {size: 2}, h: {size: 3, per: l}, d: {per: h}}"),
        "5:11",
        "group 'h' has one permutation per 'l', which does not occur beside it",
        "in b[1], a block of x * h * d",
        "",
    ),
    "parent that no tensor has": (
        CHAIN,
        SHAPES,
        head(groups="{x: {per: h}}"),
        "2:19",
        "group 'x' is per 'h', which no tensor has",
        "",
        "",
    ),
    "circle": (
        ['a: ["x * y", ~]', 'b: [~, "x * y"]'],
        {"a": (6, 3), "b": (3, 6)},
        head(groups="{x: {per: y, size: 2}, y: {per: x}}"),
        "2:19",
        "group 'x' is its own parent: x per y per x",
        "",
        "",
    ),
    "declaration of no group": (
        CHAIN,
        SHAPES,
        head(groups="{xs.{i}: {size: 3}}"),
        "2:10",
        "no group is called 'xs.{i}'",
        "",
        "",
    ),
    "two declarations": (
        ["a: [x.1.2, ~]", "b: [~, x.1.2]"],
        {"a": (4, 3), "b": (3, 4)},
        head(groups="{'x.{i}.2': {size: 4}, 'x.1.{i}': {size: 4}}"),
        "2:32",
        "'x.{i}.2' and 'x.1.{i}' both declare group 'x.1.2'",
        "",
        "",
    ),
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_symmetry_is_refused_in_its_place(row):
    check_refusal(row)


def test_independent_problems_are_reported_together_in_order():
    tensors = ["a: [x, ~]", "b: [x, x]", "c: [y, ~]", "d.{i}: [z]", "e: [1, 2, 3]"]
    found = problems(tensors, {"a": (3, 2), "b": (4, 3), "c": (3, 2), "e": (1, 2)})
    assert [(p.where.split(":")[1], p.what.split(":")[0]) for p in found] == [
        ("4", "group 'x' has two sizes"),
        ("5", "group 'y' only writes"),
        ("6", "pattern 'd.{i}' matches no tensor"),
        ("7", "'e' has 2 axes, the spec lists 3"),
    ]


def test_what_follows_from_a_reported_problem_is_not_reported():
    tensors = ["a: [x.0, ~]", "b.{i}.wight: [~, x.{i}]", 'c: ["y.0 * 5", x.0]', "d: [~, y.0]"]
    shapes = {"a": (3, 2), "b.0.weight": (4, 3), "c": (12, 3), "d": (2, 2)}
    found = problems(tensors, shapes, head="groups: {x.{i}: {size: 3}}\n")
    assert [p.what for p in found] == [
        "pattern 'b.{i}.wight' matches no tensor",
        "'y.0 * 5' does not divide the axis",
    ]


def test_one_mistake_in_a_template_is_reported_once_and_counted():
    shapes = {f"b.{i}.{w}": (3, 4) for i in range(12) for w in ("up", "down")}
    (problem,) = problems(["b.{i}.{up,down}: [x.{i}, ~]"], shapes)
    assert problem.what == "group 'x.0' only writes: nothing reads its units"
    assert "(and 11 more like it)" in problem.detail


def test_a_size_error_is_shown_as_designed():
    tensors = ["features.7.weight: [c3, ~]", "classifier.0.weight: [fc1, c3]", "x: [c3, fc1]"]
    shapes = {
        "features.7.weight": (256, 3, 3, 3),
        "classifier.0.weight": (4096, 12544),
        "x": (256, 4096),
    }
    (problem,) = problems(tensors, shapes)
    assert str(problem) == (
        "s.yaml:4:30: group 'c3' has two sizes\n"
        "    4 |   classifier.0.weight: [fc1, c3]\n"
        "      |                              ^^\n"
        "features.7.weight[0] is 256, classifier.0.weight[1] is 12544\n"
        'hint: 12544 = 256 * 49; a flattened (channel, h, w) axis is written "c3 * 49"'
    )


def test_a_wrong_declaration_is_reported_once_for_each_size_that_it_meets():
    shapes = {"a.weight": (4, 3), "b.weight": (2, 4)}
    found = problems(
        [*CHAIN, "bias: [x]"], shapes | {"bias": (6,)}, **head(groups="{x: {size: 5}}")
    )
    assert [p.detail.split(", ")[1] for p in found] == ["a.weight[0] is 4", "bias[0] is 6"]


def test_a_spec_made_without_text_has_no_positions_and_is_refused_all_the_same():
    spec = Spec(tensors={"a": (Product((Named("x"), Named("y"))),)}, source="traced")
    with pytest.raises(SpecError, match=r"^traced: the size of 'x' and 'y' cannot be inferred"):
        bind(spec, infos({"a": (12,)}))


def test_a_value_that_is_not_there_at_the_end_is_refused():
    with pytest.raises(SpecError, match="a size is a positive number"):
        parse("rebasin: 1\nsizes:\n ? kv")


def test_a_pattern_that_is_shadowed_everywhere_is_fine():
    tensors = [*CHAIN, "{a,b}.weight: [x, x]".replace("{a,b}.weight", '"*.weight"')]
    assert list(bound(tensors, SHAPES).groups) == ["x"]
