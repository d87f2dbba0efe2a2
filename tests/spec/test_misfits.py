"""Patterns, stacks and ties that do not fit a checkpoint: one row for each refusal."""

import pytest
import torch

from tests.spec.shapes import check_refusal, head

CHAIN = ["a.weight: [x, ~]", "b.weight: [~, x]"]
SHAPES = {"a.weight": (4, 3), "b.weight": (2, 4)}

# label: tensors, shapes, options, line:column, what, detail, hint
REFUSED = {
    # patterns
    "matches nothing": (
        [*CHAIN, "blocks.{i}.wieght: [x]"],
        SHAPES | {"blocks.3.weight": (4,)},
        {},
        "5:3",
        "pattern 'blocks.{i}.wieght' matches no tensor",
        "",
        "did you mean 'blocks.3.weight'?",
    ),
    "index of a name with a typing error": (
        [*CHAIN, "7.bais: [x]"],
        SHAPES | {f"{i}.bias": (4,) for i in range(9)},
        {},
        "5:3",
        "pattern '7.bais' matches no tensor",
        "",
        "did you mean '7.bias'?",
    ),
    "buffers match nothing": (
        CHAIN,
        SHAPES,
        head(buffers='["*.running_mean"]'),
        "2:11",
        "pattern '*.running_mean' matches no tensor",
        "",
        "",
    ),
    "transposed matches nothing": (
        CHAIN,
        SHAPES,
        head(transposed="[a.wight]"),
        "2:14",
        "pattern 'a.wight' matches no tensor",
        "",
        "did you mean 'a.weight'?",
    ),
    "equally specific": (
        ["a.{i}.w: [x, x]", "a.{j}.{w,v}: [x, x]"],
        {"a.1.w": (3, 3), "a.2.v": (3, 3)},
        {},
        "4:3",
        "two equally specific patterns match 'a.1.w'",
        "'a.{i}.w' (line 3) and 'a.{j}.{w,v}'",
        "",
    ),
    "too many axes": (
        ["a: [x, x, y]"],
        {"a": (3, 3)},
        {},
        "3:13",
        "'a' has 2 axes, the spec lists 3",
        "its shape is [3, 3]",
        "",
    ),
    "axis to split": (
        ["a: {split: 2, parts: [[x], [x]]}"],
        {"a": (3, 3)},
        {},
        "3:3",
        "'a' has no axis 2 to split",
        "its shape is [3, 3]",
        "",
    ),
    "neighbour of the first": (
        ["a.{i}.w: [x.{i}, x.{i.prev}]"],
        {"a.0.w": (3, 3), "a.1.w": (3, 3)},
        {},
        "3:20",
        "{i.prev} of 'a.0.w' does not exist",
        "there is no such index beside 'a.': 0, 1",
        "{first}",
    ),
    "last of no groups": (
        [*CHAIN, 'c: [~, "g.{last} * 2"]'],
        SHAPES | {"c": (3, 8)},
        {},
        "5:11",
        "{last} of 'c' does not exist",
        "no other entry makes a group like 'g.{last}'",
        "",
    ),
    # axes of names
    "gap": (
        ["e.[e].w: [e, x, x]"],
        {"e.0.w": (3, 3), "e.2.w": (3, 3)},
        {},
        "3:3",
        "the names of 'e.[...].w' have a gap: there is no 1",
        "found 0, 2",
        "counts 0, 1, 2",
    ),
    "stack of two shapes": (
        ["e.[e].w: [e, x, x]"],
        {"e.0.w": (3, 3), "e.1.w": (3, 4)},
        {},
        "3:3",
        "the tensors of 'e.[...].w' differ",
        "e.0.w is float32 [3, 3], e.1.w is float32 [3, 4]",
        "",
    ),
    "stack of two dtypes": (
        ["e.[e].w: [e, x, x]"],
        {"e.0.w": (3, 3), "e.1.w": (3, 3)},
        {"dtypes": {"e.1.w": torch.float16}},
        "3:3",
        "the tensors of 'e.[...].w' differ",
        "e.0.w is float32 [3, 3], e.1.w is float16 [3, 3]",
        "",
    ),
    "stack along a size": (
        ["e.[e].w: [n, x, x]"],
        {"e.0.w": (3, 3), "e.1.w": (3, 3)},
        head(sizes="{n: 2}"),
        "4:13",
        "'n' is a size, but an axis of names belongs to a group",
        "",
        "",
    ),
    # the rest
    "ties": (
        ["a: [x, x]", "b: [x, ~]"],
        {"a": (3, 3), "b": (3, 3)},
        {"ties": {"b": "a"}},
        "4:3",
        "'b' and 'a' are tied but have different axes",
        "'a' has its entry in line 3",
        "name only one",
    ),
    "many blocks": (
        [f'a: ["{" * ".join(["(x + x)"] * 15)}", x]'],
        {"a": (2**15, 1)},
        head(groups="{x: {size: 1}}"),
        "4:3",
        "'a' falls into more than 10,000 blocks",
        "",
        "",
    ),
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_is_refused_in_its_place(row):
    check_refusal(row)
