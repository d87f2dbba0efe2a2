"""An import goes down or stays inside one folder, and each third-party package has its one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rebasin_cli"
STOREYS = [  # lowest first; the units of one line do not know each other
    "__init__",
    "errors progress",
    "tensors",
    "permutation",
    "spec checkpoint models",
    "matching trace merging evaluate",
    "plan",
    "run report",
    "cli",
    "__main__",
]
HEIGHT = {unit: height for height, units in enumerate(STOREYS) for unit in units.split()}
HOMES = {
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "yaml": {"spec"},
    "safetensors": {"checkpoint"},
    "scipy": {"matching"},
    "lap": {"matching"},
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that one statement imports; a relative import starts with a dot."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (f"{module}.{alias.name}" for alias in node.names)


def offence(unit: str, name: str) -> str | None:
    """Return what is wrong with importing `name` in a unit of the package."""
    top, _, rest = f"{name}.".partition(".")
    if top != "rebasin_cli":
        away = not top or unit not in HOMES.get(top, {unit})
        return f"{unit} imports {name}" if away else None
    target = rest.split(".")[0]
    target = target if target in HEIGHT else "__init__"
    down = HEIGHT[target] < HEIGHT[unit]
    return None if down or target == unit else f"{unit} imports {name}, which is not below it"


def offences(unit: str, source: str) -> list[str]:
    """Return every import in a module's source that the floors or homes forbid."""
    tree = ast.parse(source)
    found = [offence(unit, name) for node in ast.walk(tree) for name in imported(node)]
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS) and unit != "cli"]
    inner = [name for f in functions for node in ast.walk(f) for name in imported(node)]
    return [text for text in found if text] + [f"{unit} imports {name} late" for name in inner]


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_go_down(path: Path) -> None:
    assert unit_of(path) in HEIGHT, "give the new unit a storey"
    assert offences(unit_of(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("spec", "from rebasin_cli.matching import match_weights"),
        ("spec", "from rebasin_cli import matching"),
        ("spec", "import rebasin_cli.checkpoint"),
        ("run", "from rebasin_cli.report.table import show"),
        ("plan", "import yaml"),
        ("matching", "from safetensors.torch import load_file"),
        ("report", "import typer.main"),
        ("merging", "if TYPE_CHECKING:\n    from scipy.optimize import linear_sum_assignment"),
        ("checkpoint", "def open_later():\n    import torch"),
        ("trace", "from .graph import Node"),
    ],
)
def test_a_forbidden_import_is_found(unit: str, source: str) -> None:
    assert len(offences(unit, source)) == 1


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("permutation", "from rebasin_cli.errors import PermutationError"),
        ("matching", "from rebasin_cli.matching.terms import Term\nimport scipy.optimize"),
        ("cli", "def align():\n    from rebasin_cli.run import run_align"),
        ("report", "from rebasin_cli import __version__\nimport rich"),
    ],
)
def test_an_allowed_import_is_not_found(unit: str, source: str) -> None:
    assert offences(unit, source) == []
