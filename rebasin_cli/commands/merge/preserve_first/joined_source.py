"""The text of the file that builds a joined model: it needs torch and the user's own class."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

from torch import nn

from rebasin_cli.checkpoint.endings import format_of
from rebasin_cli.commands.merge.preserve_first import joined_model as joined
from rebasin_cli.errors import UsageError
from rebasin_cli.models.user.imports import named_object

_PARTS = (
    joined.Joined,
    joined.JoinReached,
    joined.Join,
    joined.Listen,
    joined.Echo,
    joined.input_at_join,
    joined.place_of_input,
    joined.replace_module,
    joined.with_tensors,
    joined.copied,
)
_IMPORTS = """from __future__ import annotations

{stdlib}from collections.abc import Callable, Mapping, Sequence
{path}from typing import Any

{library}from torch import Tensor, nn
"""
_LOAD = '''
SOURCE = {place}  # the file of the class


def named() -> Any:
    """Return what builds one model: {name} of {file}, with what lies beside it."""
    sys.path.append(str(SOURCE.parent))
    spec = importlib.util.spec_from_file_location(SOURCE.stem, SOURCE)
    if spec is None or spec.loader is None:
        raise ImportError(f"{{SOURCE}} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(SOURCE.stem, module)
    spec.loader.exec_module(module)
    return module.{name}
'''


@dataclass(frozen=True)
class Recipe:
    """What decides a joined model: see `joined_model.Joined`.

    target, arguments: what builds one of the models. file: where the text will lie.
    checkpoint: the name of the file with its weights. parents: their names.
    """

    target: str
    arguments: Mapping[str, object]
    file: Path
    checkpoint: str
    parents: Sequence[str]
    join: str
    kept: Sequence[str]
    merged: Sequence[str]
    weights: Sequence[float]


def joined_source(recipe: Recipe) -> str:
    """Return the text of a Python file whose `build()` returns the joined model.

    Raises UsageError for a target that such a file cannot name.
    """
    maker = _maker(recipe)
    head = f"{_docstring(recipe)}\n{maker.imports}{maker.load}"
    parts = [inspect.getsource(part).rstrip() for part in _PARTS]
    return "\n\n\n".join([head.rstrip(), _build(recipe, maker).strip(), *parts]) + "\n"


def _docstring(recipe: Recipe) -> str:
    parents = "\n".join(f"* {name}" for name in recipe.parents)
    load = (
        f'torch.load("{recipe.checkpoint}", weights_only=True)'
        if format_of(recipe.checkpoint) == "pt"
        else f'load_file("{recipe.checkpoint}")'
    )
    library = "from safetensors.torch import load_file" if "load_file" in load else "import torch"
    return f'''"""Models that are apart up to {recipe.join!r} and one from there on.

{parents}

Written by `rebasin merge --preserve-first`; the weights are in {recipe.checkpoint}:

    {library}
    from {recipe.file.stem} import build

    model = build()
    model.load_state_dict({load})
    model.eval()
"""
'''


@dataclass(frozen=True)
class _ClassSource:
    """How the file gets at the class.

    found: the expression for it, or for a finished model. load: the code that the expression needs.
    arguments: of the class. finished: it is a model, of which copies are made.
    """

    imports: str
    found: str
    arguments: Mapping[str, object]
    load: str = ""
    finished: bool = False


def _maker(recipe: Recipe) -> _ClassSource:
    scheme, _, rest = recipe.target.partition(":")
    if scheme == "torchvision":
        arguments = {"name": rest, "weights": None, **recipe.arguments}
        return _ClassSource(_imports("torchvision"), "torchvision.models.get_model", arguments)
    if scheme == "timm":
        arguments = {"model_name": rest, "pretrained": False, **recipe.arguments}
        return _ClassSource(_imports("timm"), "timm.create_model", arguments)
    if scheme in ("hf", "diffusers"):
        raise UsageError(
            f"a file that builds {recipe.target} cannot be written",
            hint="name a function that builds the model: --model file.py:function",
        )
    return _own_maker(recipe)


def _own_maker(recipe: Recipe) -> _ClassSource:
    """Return how the file gets at a class, a function or a model of the user's."""
    finished = isinstance(named_object(recipe.target), nn.Module)
    place, _, name = recipe.target.rpartition(":")
    if not place.endswith(".py"):
        imports = _imports(place, finished=finished)
        return _ClassSource(imports, f"{place}.{name}", recipe.arguments, finished=finished)
    load = _LOAD.format(place=_place(place, recipe.file), name=name, file=Path(place).name)
    imports = _imports("", found=True, finished=finished)
    return _ClassSource(imports, "named()", recipe.arguments, load, finished)


def _imports(library: str, *, found: bool = False, finished: bool = False) -> str:
    copy = "import copy\n" if finished else ""
    return _IMPORTS.format(
        stdlib=copy + ("import importlib.util\nimport sys\n" if found else ""),
        path="from pathlib import Path\n" if found else "",
        library=f"import {library}\n" if library else "",
    )


def _place(source: str, file: Path) -> str:
    """Return where the class is, as an expression: seen from the file, unless that was absolute."""
    if Path(source).is_absolute():
        return f"Path({json.dumps(source)})"
    way = Path(relpath(Path(source).resolve(), file.resolve().parent)).as_posix()
    return f"(Path(__file__).resolve().parent / {json.dumps(way)}).resolve()"


def _build(recipe: Recipe, maker: _ClassSource) -> str:
    pairs = {json.dumps(key): literal(value) for key, value in maker.arguments.items()}
    made = "copy.deepcopy(make)" if maker.finished else "make(**ARGUMENTS)"
    return f'''
ARGUMENTS: dict[str, Any] = {_listed("{", [f"{key}: {value}" for key, value in pairs.items()])}
JOIN = {json.dumps(recipe.join)}  # its input is the mean of what the parents make of theirs
WEIGHTS = {_listed("(", list(map(repr, recipe.weights)))}
KEPT = {_listed("(", list(map(json.dumps, recipe.kept)))}
MERGED = {_listed("(", list(map(json.dumps, recipe.merged)))}


def build() -> Joined:
    """Return the model, with random weights."""
    make = {maker.found}
    *parents, trunk = [{made} for _ in range(len(WEIGHTS) + 1)]
    return Joined(parents, trunk, join=JOIN, kept=KEPT, merged=MERGED, weights=WEIGHTS)'''


def _listed(bracket: str, items: Sequence[str]) -> str:
    """Return items one a line, in brackets."""
    end = {"(": ")", "{": "}"}[bracket]
    if bracket == "(" and len(items) == 1:
        return f"({items[0]},)"
    return bracket + "".join(f"\n    {item}," for item in items) + ("\n" if items else "") + end


def literal(value: object) -> str:
    """Return a value of JSON as Python writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
