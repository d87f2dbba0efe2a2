"""Where things may stand and who may import whom: the rules of CONTRIBUTING.md, "Layout"."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebasin_cli.commands.registry import COMMANDS, SPEC

PACKAGE = Path(__file__).parents[1] / "rebasin_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Lowest first; the units of one line do not know each other.
FLOORS = [
    "__init__ option_spelling json_text progress wording",
    "errors",
    "tensors",
    "permutation merging models checkpoint",
    "permuted",
    "spec",
    "matching",
    "symmetry",
    "tracer",
    "options",
    "execution",
    "presentation files",
    "network resuming pictures",
    "activations adapters",
    "spec_choice renormalization",
    "alignment",
    "folding widening",
    "commands registry",
    "api cli",
    "__main__",
]
HEIGHT = {unit: height for height, units in enumerate(FLOORS) for unit in units.split()}
HOMES = {  # where a package may be imported; `command` is every commands/**/command.py
    "typer": {"cli", "options", "command"},
    "rich": {"cli", "presentation", "report", "unit_tables", "explain"},
    "yaml": {"spec"},
    "safetensors": {"checkpoint"},
    "scipy": {"matching", "convex_means"},
    "lap": {"matching"},
}
# The files of a command, which may be called the same in every folder.
OF_A_COMMAND = ("command", "plan", "run", "report")
# What the face of the package names, for type checkers; it imports nothing before it is used.
FACE = ("api", "checkpoint", "errors", "spec", "tracer")
MOST_FILES = 15  # of a folder
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def unit_of(path: Path) -> str:
    """Return the floor's name for a module: its folder in the package, or its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[1] if parts[:2] == ("commands", "registry") else parts[0]


def command_of(name: str) -> str | None:
    """Return the command that a module belongs to, by its dotted name within the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "commands" and len(parts) > 2 else None


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path) for path in SOURCES}


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that one statement imports; a relative import starts with a dot."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (f"{module}.{alias.name}" for alias in node.names)


def ours(name: str) -> str | None:
    """Return the module of the package that an imported name is in, without the package's name."""
    top, _, rest = name.partition(".")
    if top != "rebasin_cli":
        return None
    return rest if rest in MODULES else rest.rpartition(".")[0]


def offence(path: Path, name: str) -> str | None:
    """Return what is wrong with importing a name in a module."""
    unit, top = unit_of(path), name.partition(".")[0]
    if top != "rebasin_cli":
        here = {unit, path.stem}
        return f"imports {name}" if not top or not here & HOMES.get(top, here) else None
    target = ours(name) or "__init__"
    other = unit_of(PACKAGE / f"{target.replace('.', '/')}.py")
    mine, theirs = command_of(dotted(path)), command_of(target)
    if mine and theirs and mine != theirs:
        return f"the command {mine} imports {name} of another command"
    if HEIGHT[other] < HEIGHT[unit] or other == unit:
        return None
    if dotted(path) == "__init__" and other in FACE:
        return None
    return f"{unit} imports {name}, which is not below it"


def offences(path: Path, source: str) -> list[str]:
    """Return every import in a module's source that the floors, homes or commands forbid."""
    tree = ast.parse(source)
    found = [offence(path, name) for node in ast.walk(tree) for name in imported(node)]
    late = path.stem == "command" or unit_of(path) in ("cli", "api")
    functions = [] if late else [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    inner = [name for f in functions for node in ast.walk(f) for name in imported(node)]
    return [text for text in found if text] + [f"imports {name} late" for name in inner]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert unit_of(path) in HEIGHT, "give the new unit a floor"
    assert offences(path, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("spec/language/parse", "from rebasin_cli.matching.methods import METHODS"),
        ("spec/library", "from rebasin_cli import matching"),
        ("files/inputs", "from rebasin_cli.presentation.presenter import Presenter"),
        ("checkpoint/header", "import rebasin_cli.spec"),
        ("commands/merge/run", "from rebasin_cli.commands.align.run import run_align"),
        ("commands/merge/plan", "import yaml"),
        ("commands/merge/plan", "import typer"),
        ("matching/methods", "from safetensors.torch import load_file"),
        ("presentation/presenter", "import typer.main"),
        ("merging/mean", "if TYPE_CHECKING:\n    from scipy.optimize import linear_sum_assignment"),
        ("checkpoint/reader", "def open_later():\n    import torch"),
        ("tracer/trace", "from .graph import Node"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(offences(PACKAGE / f"{module}.py", source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("permutation", "from rebasin_cli.errors import PermutationError"),
        ("matching/methods", "import scipy.optimize"),
        ("commands/merge/linear_maps/run", "from rebasin_cli.commands.merge.run import run_merge"),
        ("commands/align/command", "import typer\ndef f():\n    from rebasin_cli.tensors import x"),
        ("commands/merge/report", "from rebasin_cli import __version__\nimport rich"),
    ],
)
def test_an_allowed_import_is_not_found(module: str, source: str) -> None:
    assert offences(PACKAGE / f"{module}.py", source) == []


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a module imports."""
    names = (
        name for node in ast.walk(ast.parse(path.read_text("utf-8"))) for name in imported(node)
    )
    return {found for found in map(ours, names) if found}


USERS: dict[str, set[str]] = {}
for source in SOURCES:
    for used in imports_of(source):
        USERS.setdefault(used, set()).add(dotted(source))


def commands_that_use(module: str) -> set[str]:
    """Return the commands, and other things at the top, for which a module is there."""
    seen, todo, found = {module}, [module], set()
    while todo:
        for user in USERS.get(todo.pop(), set()) - seen:
            seen.add(user)
            command = command_of(user)
            if command or user.split(".")[0] in ("cli", "api"):
                found.add(command or user.split(".")[0])
            else:
                todo.append(user)
    return found


SUBJECTS = (
    *("presentation", "files", "network", "activations", "spec_choice", "renormalization"),
    "folding widening",
)
SHARED = [
    path
    for path in SOURCES
    if path.stem != "__init__" and unit_of(path) in (*SUBJECTS, "alignment", "options")
]


@pytest.mark.parametrize("path", SHARED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_one_command_uses_lives_in_its_folder(path: Path) -> None:
    using = commands_that_use(dotted(path))
    assert len(using) > 1, f"only {using or 'nobody'} uses it"


def test_a_module_that_nobody_else_uses_is_found() -> None:
    assert commands_that_use("commands.lerp.exec_hook") == {"lerp"}


@pytest.mark.parametrize("name", [*COMMANDS, "spec/check", "spec/trace"])
def test_a_command_is_a_folder_with_the_same_files(name: str) -> None:
    folder = PACKAGE / "commands" / name
    expected = {"command", "plan", "run", "report"} if name != "spec" else {"command"}
    assert expected <= {path.stem for path in folder.glob("*.py")}


@pytest.mark.parametrize("name", [*COMMANDS, *(f"spec {name}" for name in SPEC)])
def test_the_registry_says_of_a_command_what_its_help_says(name: str) -> None:
    entry = COMMANDS[name] if name in COMMANDS else SPEC[name.removeprefix("spec ")]
    path = PACKAGE.parent / f"{entry.module.replace('.', '/')}.py"
    functions = {
        node.name: node
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    help = ast.get_docstring(functions[entry.function]) or ""
    assert entry.summary == " ".join(help.split("\n\n")[0].split())


def twice(names: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Return what has more than one place, with its places."""
    places: dict[str, list[str]] = {}
    for name, place in names:
        places.setdefault(name, []).append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_file_name_is_there_twice() -> None:
    shared = (*OF_A_COMMAND, "__init__")
    named = ((p.stem, dotted(p)) for p in SOURCES if p.stem not in shared)
    assert twice(named) == {}


def types_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names of classes and of aliases of types, private ones without their underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id.lstrip("_")
            if name[:1].isupper() and not name.isupper():
                yield name


def test_no_type_name_is_there_twice() -> None:
    named = (
        (name, dotted(path))
        for path in SOURCES
        for name in types_in(ast.parse(path.read_text("utf-8")))
    )
    assert twice(named) == {}


def test_a_type_name_is_found_wherever_it_is_given() -> None:
    source = "class A: ...\nclass _B: ...\nCs = Mapping[str, int]\nLIMIT = 3\nd = 4\n"
    assert list(types_in(ast.parse(source))) == ["A", "B", "Cs"]


def test_no_folder_has_more_files_than_one_can_look_through() -> None:
    count = Counter(str(path.parent.relative_to(PACKAGE)) for path in SOURCES)
    assert {name: files for name, files in count.items() if files > MOST_FILES} == {}


PARTICIPLES = (
    *("built", "bound", "broken", "chosen", "cut", "done", "drawn", "found", "given", "gone"),
    *("held", "hidden", "kept", "known", "left", "lost", "made", "met", "put", "read", "said"),
    *("seen", "sent", "shown", "shrunk", "spent", "split", "taken", "told", "worn", "written"),
)


def participles_in(tree: ast.Module) -> list[str]:
    """Return public functions that are called by a participle alone: of what, and who does it?

    A command is called as a person asks for it.
    """
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = [name for name in names if name not in COMMANDS]
    return [n for n in names if "_" not in n and (n.endswith("ed") or n in PARTICIPLES)]


@pytest.mark.parametrize(
    "path",
    # a rule of the tracer is called as its operator is, or as what that does to axes
    [path for path in SOURCES if path.parent.name != "rules" and path.stem != "joined_model"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_functions_are_called_by_what_they_do(path: Path) -> None:
    assert participles_in(ast.parse(path.read_text("utf-8"))) == []


def test_a_bare_participle_is_found() -> None:
    source = "def shortened(): ...\ndef kept(): ...\ndef _made(): ...\ndef moved_parts(): ...\n"
    assert participles_in(ast.parse(source)) == ["shortened", "kept"]
