"""The table of operators: a row is of an operator, a fact has rows, and no list is beside it."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import rebasin_cli.renormalization
import rebasin_cli.tracer
from rebasin_cli.tracer.operators import OPERATORS, Operator, facts

TRACE = Path(rebasin_cli.tracer.__file__).parent
TABLE = TRACE / "operators.py"
PACKAGE = TRACE.parent
FOLDERS = (TRACE, Path(rebasin_cli.renormalization.__file__).parent)
MODULES = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py")) if path != TABLE]
FACTS = [field.name for field in fields(Operator) if field.name != "name"]
LITERALS = (ast.Set, ast.Tuple, ast.List, ast.Dict, ast.Constant)


def is_operator(name: str) -> bool:
    """Return whether torch has an operator of this name, perhaps in its in-place form only."""
    return hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, f"{name}_")


def names_in(literal: ast.AST) -> list[str]:
    """Return what a literal lists: its items, the keys of a dict, the words of a text."""
    if isinstance(literal, ast.Constant):
        words = literal.value.split() if isinstance(literal.value, str) else []
        return words if all(map(is_operator, words)) else []
    items = literal.keys if isinstance(literal, ast.Dict) else getattr(literal, "elts", [])
    return [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]


def listed(source: str, kinds: tuple[type[ast.AST], ...]) -> Iterator[list[str]]:
    """Yield the operators in each literal of some kinds that lists two or more."""
    for node in ast.walk(ast.parse(source)):
        names = [n for n in names_in(node) if is_operator(n)] if isinstance(node, kinds) else []
        if len(names) > 1:
            yield names


@pytest.mark.parametrize("name", [operator.name for operator in OPERATORS])
def test_a_row_is_of_an_operator_that_torch_has(name: str) -> None:
    assert hasattr(torch.ops.aten, name)


def test_an_operator_has_one_row() -> None:
    counts = Counter(operator.name for operator in OPERATORS)
    assert [name for name, count in counts.items() if count > 1] == []


def test_a_row_says_something() -> None:
    assert [row.name for row in OPERATORS if row == Operator(row.name)] == []


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_true_of_some_operator(fact: str) -> None:
    assert any(getattr(operator, fact) for operator in OPERATORS)


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_documented_and_asked_for(fact: str) -> None:
    assert f"{fact}:" in (Operator.__doc__ or "")
    sources = [path.read_text("utf-8") for path in MODULES]
    assert any(f".{fact}" in source for source in sources)


def test_a_gate_is_an_activation_and_what_takes_looks_up() -> None:
    assert all(operator.activation for operator in OPERATORS if operator.gate)
    assert all(operator.looks_up for operator in OPERATORS if operator.takes)


def test_an_operator_keeps_scales_in_one_way_at_most() -> None:
    rows = [(row.moves, row.homogeneous, row.joins, row.layer is not None) for row in OPERATORS]
    assert max(map(sum, rows)) == 1


@pytest.mark.parametrize(
    ("name", "row"), [("relu_", "relu"), ("index_put_", "index_put"), ("_to_copy", "_to_copy")]
)
def test_the_facts_of_an_in_place_form_are_those_of_the_operator(name: str, row: str) -> None:
    assert facts(name).name == row


@pytest.mark.parametrize("name", ["linear", "__and__", "_", "", "torchvision::nms"])
def test_an_operator_without_a_row_has_no_facts(name: str) -> None:
    assert facts(name) == Operator("")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_other_module_lists_operators_but_the_tables_of_rules(path: Path) -> None:
    tables = path.parent.name == "rules"  # where a tuple or a dict says which rule is whose
    kinds = (ast.Set,) if tables else LITERALS
    assert list(listed(path.read_text("utf-8"), kinds)) == []


@pytest.mark.parametrize(
    "source",
    ['{"sort", "topk"}', 'x = ("relu_", 1, "sort")', '{"mean": 1, "sum": 2}', 'f("mean sum")'],
)
def test_a_list_of_operators_is_found(source: str) -> None:
    assert len(list(listed(source, LITERALS))) == 1


@pytest.mark.parametrize("source", ['("all", "last")', '"the mean of all"', 'name == "index"'])
def test_other_names_and_single_operators_are_no_list(source: str) -> None:
    assert list(listed(source, LITERALS)) == []
