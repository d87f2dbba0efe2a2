"""Broken specs: one row for each refusal, with its place and its sentence."""

import re

import pytest

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.language.model import Named
from rebasin_cli.spec.language.parse import parse

HEAD = "rebasin: 1\n"
BODY = "tensors: {a.weight: [x]}\n"


def problems(text):
    with pytest.raises(SpecError) as caught:
        parse(text, source="s.yaml")
    return caught.value.problems


def tensors(line):
    return f"{HEAD}tensors:\n  {line}\n"


BROKEN = {
    # keys
    "key twice at the top": (HEAD + BODY + BODY, "3:1", "key 'tensors' occurs twice"),
    "tensor twice": (tensors("a: [x]\n  a: [y]"), "4:3", "key 'a' occurs twice"),
    "group twice": (
        HEAD + "groups: {g: {size: 1}, g: {size: 2}}\n" + BODY,
        "2:24",
        "key 'g' occurs twice",
    ),
    "size twice": (HEAD + "sizes: {n: 1, n: 2}\n" + BODY, "2:15", "key 'n' occurs twice"),
    "field of a group twice": (
        HEAD + "groups: {g: {size: 1, size: 2}}\n" + BODY,
        "2:23",
        "key 'size' occurs twice",
    ),
    "field of a split twice": (
        tensors("a: {split: 0, split: 1, parts: [[x], [y]]}"),
        "3:17",
        "key 'split' occurs twice",
    ),
    "unknown key": (HEAD + "buffer: []\n" + BODY, "2:1", "unknown key 'buffer'"),
    "unknown field of a group": (
        HEAD + "groups: {g: {sise: 1}}\n" + BODY,
        "2:14",
        "unknown key 'sise'",
    ),
    "unknown field of a split": (
        tensors("a: {split: 0, part: [[x], [y]]}"),
        "3:17",
        "unknown key 'part'",
    ),
    "key that is a list": (HEAD + "[a]: 1\n" + BODY, "2:1", "a key must be text"),
    # the top
    "no version": (BODY, "1:1", "key 'rebasin' is missing"),
    "other version": ("rebasin: 2\n" + BODY, "1:10", "unknown version '2' of the language"),
    "version that is no text": ("rebasin: [1]\n" + BODY, "1:10", "unknown version of the"),
    "no tensors": (HEAD, "1:1", "key 'tensors' is missing"),
    "tensors that are empty": (HEAD + "tensors: {}", "2:10", "'tensors' names no tensor"),
    "tensors that are a list": (HEAD + "tensors: [a]", "2:10", "'tensors' must be a table"),
    "a list": ("[rebasin]", "1:1", "a spec is a table of keys"),
    "nothing": ("# only a comment", "1:1", "the spec is empty"),
    "name that is a list": (HEAD + "name: [x]\n" + BODY, "2:7", "'name' must be text"),
    "buffers that are text": (
        HEAD + "buffers: x\n" + BODY,
        "2:10",
        "'buffers' must be a list of name patterns",
    ),
    "buffer that is a list": (HEAD + "buffers: [[x]]\n" + BODY, "2:11", "must be text"),
    # sizes and groups
    "size of zero": (HEAD + "sizes: {n: 0}\n" + BODY, "2:12", "a size is a positive number"),
    "size that is text": (HEAD + "sizes: {n: big}\n" + BODY, "2:12", "a size is a positive"),
    "size with an index": (HEAD + "sizes: {n.{i}: 3}\n" + BODY, "2:11", "unknown index {i}"),
    "size and group": (
        HEAD + "sizes: {n: 3}\ngroups: {n: {size: 3}}\n" + BODY,
        "3:10",
        "'n' is declared as a size and as a group",
    ),
    "group that declares nothing": (
        HEAD + "groups: {g: {}}\n" + BODY,
        "2:13",
        "a group declares its size, its parent or that it is fixed",
    ),
    "group of an unknown size": (
        HEAD + "sizes: {heads: 3}\ngroups: {g: {size: head}}\n" + BODY,
        "3:20",
        "a size is a positive number, a name from `sizes:`",
    ),
    "two parents": (
        HEAD + "groups: {g: {per: [a, b]}}\n" + BODY,
        "2:19",
        "a group has one parent",
    ),
    "parent of another index": (
        HEAD + "groups: {g.{i}: {per: h.{j}}}\n" + BODY,
        "2:25",
        "unknown index {j}",
    ),
    "declaration of a neighbour": (
        HEAD + "groups: {g.{i.prev}: {size: 1}}\n" + BODY,
        "2:12",
        "unknown index {i.prev}",
    ),
    "fixed that is no truth": (
        HEAD + "groups: {g: {fixed: yes}}\n" + BODY,
        "2:21",
        "'fixed' is true or false",
    ),
    "fixed that is a list": (
        HEAD + "groups: {g: {fixed: [true]}}\n" + BODY,
        "2:21",
        "'fixed' is true or false",
    ),
    # patterns
    "brace that is open": (tensors('"a.{i": [x]'), "3:6", "'{' has no partner"),
    "bracket that is open": (tensors('"a.[e": [x]'), "3:6", "'[' has no partner"),
    "neighbour in a pattern": (
        tensors("a.{i.prev}: [x]"),
        "3:5",
        "'{i.prev}' cannot stand in a name pattern",
    ),
    "two axes of names": (
        tensors("a.[e].[f]: [x]"),
        "3:9",
        "a pattern has one axis of names at most",
    ),
    "axis of names and index": (
        tensors("a.[e].{e}: [x]"),
        "3:9",
        "'e' is an axis of names already",
    ),
    "optional pattern of nothing": (tensors('"?": [x]'), "3:4", "a pattern cannot be empty"),
    "empty pattern": (tensors('"": [x]'), "3:4", "a pattern cannot be empty"),
    "names axis of two groups": (
        tensors('a.[e]: ["x * y"]'),
        "3:10",
        "the first axis of a pattern with an axis of names must be one group",
    ),
    "buffers pattern": (HEAD + 'buffers: ["a}"]\n' + BODY, "2:13", "'}' has no partner"),
    # entries
    "entry that is text": (tensors("a: x"), "3:6", "an entry is a list of axis expressions"),
    "entry that is nothing": (tensors("a:"), "3:5", "an entry is a list of axis expressions"),
    "axis that is a list": (tensors("a: [[x]]"), "3:7", "an axis expression must be text"),
    "split by name": (
        tensors("a: {split: x, parts: [[x], [y]]}"),
        "3:14",
        "'split' must be the number of an axis",
    ),
    "one part": (
        tensors("a: {split: 0, parts: [[x]]}"),
        "3:24",
        "'parts' must list the axes of two or more parts",
    ),
    "no parts": (tensors("a: {split: 0}"), "3:6", "'parts' must list the axes of two or more"),
    "part that is text": (
        tensors("a: {split: 0, parts: [x, [y]]}"),
        "3:25",
        "a part is a list of axis expressions",
    ),
    # axis expressions
    "unknown index": (tensors("a.{i}: [x.{j}]"), "3:11", "unknown index {j}"),
    "index of an axis of names": (tensors("a.[e]: [x, y.{e}]"), "3:14", "unknown index {e}"),
    "ambiguous end": (tensors("a.{i}.{j}: [x.{last}]"), "3:15", "unknown index {last}"),
    "unknown step": (
        tensors("a.{i}: [x.{i.previous}]"),
        "3:13",
        "'{i.previous}' is not a template",
    ),
    "character": (tensors('a: ["x / y"]'), "3:10", "unexpected character '/'"),
    "operator at the end": (tensors('a: ["x +"]'), "3:11", "expected a group, a size, '~' or '('"),
    "operators in a row": (tensors('a: ["x * * y"]'), "3:12", "but found '*'"),
    "no operator": (tensors('a: ["x y"]'), "3:10", "'y' is out of place"),
    "parenthesis that is open": (
        tensors('a: ["x * (y + z"]'),
        "3:12",
        "this parenthesis is not closed",
    ),
    "parenthesis that is closed": (tensors('a: ["x)"]'), "3:9", "')' is out of place"),
    "parentheses that are too deep": (
        tensors(f'a: ["{"(" * 21}x{")" * 21}"]'),
        "3:28",
        "parentheses nest deeper than 20",
    ),
    "size zero": (tensors("a: [0]"), "3:7", "a size is at least 1"),
    "size of many digits": (tensors(f"a: [{'9' * 5000}]"), "3:7", "a size this large"),
    "size with a point": (tensors("a: [1.5]"), "3:7", "'1.5' is not a name or a size"),
    "minus": (tensors('a: ["-"]'), "3:8", "'-' is not a name or a size"),
    "expression of many factors": (
        tensors(f'a: ["{" * ".join("x" * 6000)}"]'),
        "3:8",
        "more than 10,000 factors and operators",
    ),
    # YAML
    "anchor": (tensors("a: &x [y]"), "3:6", "YAML anchors are not read here: &x"),
    "alias": (tensors("a: *x"), "3:6", "YAML aliases are not read here: *x"),
    "tag": (tensors("a: !!str x"), "3:6", "YAML tags are not read here: tag:yaml.org,2002:str"),
    "glob without quotes": (HEAD + "buffers: [*.x]\n" + BODY, "2:12", "not YAML: "),
    "list that is open": (tensors("a: [x\n  b: [y]"), "4:4", "not YAML: "),
    "tab": (f"{HEAD}tensors:\n\ta: [x]", "3:1", "not YAML: "),
    "two documents": (HEAD + BODY + "---\n" + BODY, "3:1", "a spec is one YAML document"),
    "control character": (HEAD + "name: a\x00b\n" + BODY, "2:8", "character U+0000 cannot"),
    "surrogate": (HEAD + "name: \ud800\n" + BODY, "2:7", "character U+D800 cannot"),
    "deep": (HEAD + "x: " + "[" * 9, "2:9", "lists and tables nest deeper than 6"),
}


@pytest.mark.parametrize(("text", "where", "what"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_spec_is_refused_in_its_place(text, where, what):
    with pytest.raises(SpecError, match=re.escape(f"s.yaml:{where}: ") + ".*" + re.escape(what)):
        parse(text, source="s.yaml")
    assert len(problems(text)) == 1


HINTS = {
    "unknown key": (HEAD + "buffer: []\n" + BODY, "did you mean 'buffers'?"),
    "other version": ("rebasin: 2\n" + BODY, "write `rebasin: 1`"),
    "unknown size": (
        HEAD + "sizes: {heads: 3}\ngroups: {g: {size: head}}\n" + BODY,
        "did you mean 'heads'?",
    ),
    "unknown step": (tensors("a.{i}: [x.{i.nxt}]"), "did you mean 'next'?"),
    "entry that is text": (tensors("a: stream"), "write [stream]"),
    "neighbour in a pattern": (tensors("a.{i.prev}: [x]"), "stand in group names"),
    "alias": (tensors("a: *x"), "put quotes around text that begins with one of *"),
}


@pytest.mark.parametrize(("text", "hint"), HINTS.values(), ids=list(HINTS))
def test_a_refusal_says_what_to_do_next(text, hint):
    assert [hint in problem.hint for problem in problems(text)] == [True]


CARETS = {
    "token of a plain scalar": (tensors("a.weight: [x, b{i}]"), "{i}", False),
    "token of a quoted scalar": (tensors('a.weight: ["x + y ) + z"]'), ")", True),
    "template in a name": (tensors("a.{i}.w: [long.name.{i.pre}.x]"), "{i.pre}", True),
    "part of a pattern": (tensors('"blocks.{i}.[e": [x]'), "[", True),
    "key": (HEAD + "tensor: 3\n" + BODY, "tensor", True),
    "in single quotes": (tensors("a: ['x ? y']"), "?", True),
}


@pytest.mark.parametrize(("text", "token", "exact"), CARETS.values(), ids=list(CARETS))
def test_carets_stand_under_the_offending_characters(text, token, exact):
    (problem,) = problems(text)
    line, caret = problem.excerpt.splitlines()
    start, end = caret.index("^"), caret.rindex("^") + 1
    assert token in line[start:end]
    assert not exact or line[start:end] == token


def test_an_excerpt_looks_as_designed():
    text = "rebasin: 1\ntensors:\n  fc.weight: [fc1, c3 c4]\n"
    assert str(problems(text)[0]) == (
        "s.yaml:3:23: 'c4' is out of place\n"
        "    3 |   fc.weight: [fc1, c3 c4]\n"
        "      |                       ^^\n"
        "hint: write '*' between factors, '+' between segments, '|' between interleaved parts"
    )


def test_a_long_line_is_cut_around_the_carets():
    text = tensors(f'a: ["{" + ".join("units" for _ in range(200))} ? {"+ units" * 200}"]')
    line, caret = problems(text)[0].excerpt.splitlines()
    assert line[caret.index("^")] == "?"
    assert len(line) < 100


def test_all_problems_are_reported_in_the_order_of_the_text():
    text = "rebasin: 3\nnmae: x\ntensors:\n  a: [x y]\n  b: z\nsizes: {n: 0}\n"
    wheres = [problem.where for problem in problems(text)]
    assert wheres == ["s.yaml:1:10", "s.yaml:2:1", "s.yaml:4:9", "s.yaml:5:6", "s.yaml:6:12"]


def test_scalars_are_text_and_not_yaml_values():
    spec = parse(HEAD + "name: yes\ndescription: 1e3\ntensors: {on: [no, 0x1f]}\n")
    assert (spec.name, spec.description) == ("yes", "1e3")
    assert spec.tensors["on"] == (Named("no"), Named("0x1f"))


def test_templates_and_choices_need_no_quotes_anywhere():
    plain = "tensors: {{a,b}.{i}.{c,d}: [x.{i}]}\nbuffers: [x.{a,b}]\n"
    quoted = 'tensors: {"{a,b}.{i}.{c,d}": ["x.{i}"]}\nbuffers: ["x.{a,b}"]\n'
    assert parse(HEAD + plain) == parse(HEAD + quoted)
    assert parse(HEAD + plain).buffers == ("x.{a,b}",)


def test_a_byte_order_mark_and_windows_line_ends_are_read():
    text = (HEAD + BODY).replace("\n", "\r\n")
    assert parse("\ufeff" + text) == parse(HEAD + BODY)
    (problem,) = problems(text + "x: 1\r\n")
    assert (problem.where, problem.excerpt.splitlines()[0]) == ("s.yaml:3:1", "    3 | x: 1")


def test_specs_from_different_files_are_equal_by_meaning():
    first = parse(HEAD + BODY, source="a.yaml")
    second = parse("# comment\n" + HEAD + "tensors:\n  a.weight: [ x ]\n", source="b.yaml")
    assert first == second
    assert first.source == "a.yaml"
    assert first != parse(HEAD + "tensors: {a.weight: [y]}")


BOMBS = {
    "laughs": ("a: &a [x]\n" + "".join(f"{k}: &{k} [*a, *a]\n" for k in "bcdefghi"), "anchors are"),
    "braces": (HEAD + "x: " + "{a: " * 1_000_000, "nest deeper than 6"),
    "brackets": (HEAD + "x: " + "[" * 5_000_000, "nest deeper than 6"),
    "dashes": (HEAD + "x:\n " + "- " * 3_000_000, "nest deeper than 6"),
    "questions": (HEAD + "x:\n " + "? " * 3_000_000, "nest deeper than 6"),
    "large": (HEAD + "#" * 10_000_001, "at most 10,000,000 characters are read"),
}


@pytest.mark.parametrize(("text", "says"), BOMBS.values(), ids=list(BOMBS))
def test_a_yaml_bomb_is_refused_with_the_limit(text, says):
    with pytest.raises(SpecError, match=says):
        parse(text)


BRACKETS = ["[", "[[{a: ", "[a, ", "[\n", '["]", ', "[']', ", "[  # ]\n"]


@pytest.mark.parametrize("levels", [7, 999, 1000, 2000], ids=str)
@pytest.mark.parametrize("bracket", BRACKETS)
def test_what_nests_too_deep_is_told_the_limit_where_it_is_passed(bracket, levels):
    (problem,) = problems(HEAD + "é: 'ö'\nx: " + bracket * levels)
    assert problem.what == "lists and tables nest deeper than 6"
    assert "quotes" not in problem.hint
    text = "x: " + bracket * levels
    place = [at for at, mark in enumerate(text) if mark in "[{"][5]  # the root is the first of six
    line, column = text.count("\n", 0, place) + 3, place - text.rfind("\n", 0, place)
    assert problem.where == f"s.yaml:{line}:{column}"


@pytest.mark.parametrize(
    "text", ["x: 'a [[[[[[[ ", 'x: "[[[[[[[ ', "x: [a,\n# [[[[[[[\n", "a: b: [[[[[[["]
)
def test_brackets_that_do_not_nest_are_not_blamed(text):
    (problem,) = problems(HEAD + text)
    assert problem.what.startswith("not YAML: ")
