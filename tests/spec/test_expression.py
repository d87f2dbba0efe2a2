"""Laws of the text form: what is dumped parses back equal, and canonical text is a fixed point."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.expression import dump_expression, parse_expression
from rebasin_cli.spec.language.model import (
    Declaration,
    Fixed,
    Interleaving,
    Named,
    Product,
    Spec,
    Split,
    Sum,
    concatenation,
    interleaving,
    product,
)
from rebasin_cli.spec.language.parse import parse

NAMES = st.sampled_from(
    ["x", "ffn.{i}", "c.{i.prev}", "g.{last.prev}", "a-b", "null", "_", "config.n", "layer.0.w"]
)
LEAVES = st.one_of(NAMES.map(Named), st.just(Fixed()), st.integers(1, 10**12).map(Fixed))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(product),
        st.lists(inner, min_size=1, max_size=4).map(concatenation),
        st.lists(inner, min_size=1, max_size=4).map(interleaving),
    ),
    max_leaves=8,
)
AXES = st.lists(EXPRESSIONS, max_size=4).map(tuple)
ENTRIES = st.one_of(
    AXES, st.builds(Split, st.integers(0, 9), st.lists(AXES, min_size=2, max_size=3).map(tuple))
)
PATTERNS = st.sampled_from(["{i}.{last}.", "*.{i}.{a,b,}.", "{,x.}{i}.{first}.", "é.{i}.{first}."])
OPTIONAL = st.sampled_from(["", "?", "??"])
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"]), max_size=20)
SIZES = st.one_of(st.integers(1, 10**9), st.sampled_from(["config.a", "config.b.c-d", "config.é"]))
SPECS = st.builds(
    Spec,
    tensors=st.dictionaries(
        st.tuples(PATTERNS, st.integers(0, 9), OPTIONAL).map(lambda p: f"{p[0]}{p[1]}{p[2]}"),
        ENTRIES,
        min_size=1,
    ),
    name=TEXTS,
    description=TEXTS,
    buffers=st.lists(PATTERNS).map(tuple),
    transposed=st.lists(PATTERNS).map(tuple),
    sizes=st.dictionaries(st.sampled_from(["n", "null", "1x"]), SIZES),
    groups=st.dictionaries(
        st.sampled_from(["g.{i}", "h"]),
        st.one_of(
            st.builds(Declaration, SIZES, st.none(), st.booleans()),
            st.builds(Declaration, st.none() | SIZES, st.just("p"), st.booleans()),
            st.builds(Declaration, fixed=st.booleans()),
        ),
    ),
)


def parsed(text):
    return parse_expression(text, lambda offset, width: None)


@given(EXPRESSIONS)
def test_an_expression_that_is_dumped_parses_back_equal(tree):
    assert parsed(dump_expression(tree)) == tree


@given(SPECS)
@settings(deadline=None, max_examples=25)
def test_a_spec_that_is_dumped_parses_back_equal(spec):
    text = dump(spec)
    assert parse(text) == spec
    assert dump(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("a*b*49", "a * b * 49"),
        ("(a * b) + (c)", "a * b + c"),
        ("a*(b+c)", "a * (b + c)"),
        ("a + (b + c)", "a + b + c"),
        ("a * (b * c)", "a * b * c"),
        ("kv * (q * qk + qk + vo)", "kv * (q * qk + qk + vo)"),
        (" ~ ", "~"),
        ("007", "7"),
        ("~ * x.{i}", "~ * x.{i}"),
        ("a|b", "a | b"),
        ("(a | b) | c", "(a | b) | c"),
        ("a + b | c * d", "(a + b) | c * d"),
        ("a + (b | c) * 2", "a + (b | c) * 2"),
        ("a + (b | c)", "a + (b | c)"),
    ],
)
def test_the_canonical_text_has_no_parentheses_to_spare(text, canonical):
    assert dump_expression(parsed(text)) == canonical


def test_products_bind_tighter_than_sums():
    tree = Sum((Product((Named("a"), Named("b"))), Named("c")))
    assert parsed("a * b + c") == tree
    assert parsed("a * (b + c)") == Product((Named("a"), Sum((Named("b"), Named("c")))))


def test_interleaved_parts_bind_loosest_and_keep_their_nesting():
    a, b, c = map(Named, "abc")
    assert parsed("a + b | c") == Interleaving((Sum((a, b)), c))
    assert parsed("a | b | c") == Interleaving((a, b, c))
    assert parsed("(a | b) | c") == Interleaving((Interleaving((a, b)), c))


def test_a_name_that_looks_like_null_is_quoted():
    spec = Spec(tensors={"x": (Named("null"), Fixed())})
    assert 'x: ["null", ~]' in dump(spec)
    assert parse(dump(spec)) == spec


def test_a_key_longer_than_yaml_allows_is_dumped_so_that_it_parses():
    spec = Spec(tensors={"x." + "{a,b}" * 400: (Named("g"),)})
    assert parse(dump(spec)) == spec


def test_canonical_text_is_yaml_that_any_reader_takes():
    text = dump(Spec(tensors={"b.{i}.{x,y}.w": (Named("f.{i}"), Fixed())}, buffers=("*.m",)))
    import yaml

    assert yaml.safe_load(text) == {
        "rebasin": 1,
        "buffers": ["*.m"],
        "tensors": {"b.{i}.{x,y}.w": ["f.{i}", None]},
    }
