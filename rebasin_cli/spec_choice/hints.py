"""Which `--model` a checkpoint may be one of, from what lies around its weights.

A config.json is the best sign, a name of a file or of a model of the hub the next. The libraries
are looked up as text: importing one takes seconds, and one that is absent cannot be named.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rebasin_cli.files.headers import Headers
from rebasin_cli.json_text import read_json

# What a registered model looks like in a source of timm and of torchvision.
REGISTERED = re.compile(
    r"^@register_model(?:\([^)\n]*\))?\s*\n(?:@(?:[^\n]|\n(?!def ))*\n)?def (\w+)\(", re.MULTILINE
)
DIGEST = re.compile(r"-[0-9a-f]{8}$")  # at the end of torchvision's file names
CACHED = re.compile(r"^models--[^/]+?--(.+)$")  # a model's folder in the cache of the hub
TRACED = ("_class_name", "architectures")  # keys of a config.json that is traced without --model
HEADS = ("fc", "classifier", "head", "heads", "last_linear")
ModelTarget = tuple[str, Mapping[str, object]]  # of --model and --model-args
CLASSES = 1000  # of every model of both libraries, unless it is told otherwise


def model_hint(headers: Headers) -> str:
    """Return what to say of the model that a checkpoint may be one of, with the option to name it.

    Empty where nothing suggests one.
    """
    target, arguments = next(_targets(headers), ("", {}))
    if not target:
        return ""
    more = f" --model-args {shlex.quote(json.dumps(dict(arguments)))}" if arguments else ""
    return f"it looks like {target}: --model {shlex.quote(target)}{more}"


def _targets(headers: Headers) -> Iterator[ModelTarget]:
    """Yield what may be meant, the surest first."""
    own, above = headers.folder, headers.folder.absolute().parent
    yield from _of_timm(headers.config)
    if not any(headers.config.get(key) for key in TRACED):
        yield from _of_folder(own, headers.config)
    yield from _of_folder(above, _config(above))
    for text in _names(Path(headers.where)):
        for library in _libraries(headers.where):
            yield from _called(text, library, headers)


def _of_timm(config: Mapping[str, Any]) -> Iterator[ModelTarget]:
    """Yield the model of a config.json that timm wrote."""
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or _name(architecture) not in registered_models("timm"):
        return
    given, classes = config.get("model_args"), config.get("num_classes")
    arguments = dict(given) if isinstance(given, dict) else {}
    if isinstance(classes, int) and classes != CLASSES:
        arguments["num_classes"] = classes
    yield f"timm:{_name(architecture)}", arguments


def _of_folder(folder: Path, config: Mapping[str, Any]) -> Iterator[ModelTarget]:
    """Yield the folder of a config.json that transformers or diffusers wrote."""
    if "_class_name" in config and importlib.util.find_spec("diffusers"):
        yield f"diffusers:{folder}", {}
    kind = str(config.get("model_type", "")).replace("-", "_")
    library = importlib.util.find_spec("transformers")
    places = (library.submodule_search_locations if library else None) or []
    if kind and any((Path(place) / "models" / kind).is_dir() for place in places):
        yield f"hf:{folder}", {}


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        found = read_json((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(path: Path) -> Iterator[str]:
    """Yield the texts in a path that may name a model: of the file, of folders, of the hub."""
    path = path.absolute()
    yield DIGEST.sub("", path.name.partition(".")[0])
    yield from path.parts[::-1][1:4]
    yield from (found[1] for part in path.parts if (found := CACHED.match(part)))


def _libraries(where: str) -> tuple[str, ...]:
    """Return the libraries to look into; both have a resnet50, and only one of them .pth files."""
    first = where.lower().endswith((".pth", ".pt"))
    return ("torchvision", "timm") if first else ("timm", "torchvision")


def _called(text: str, library: str, headers: Headers) -> Iterator[ModelTarget]:
    """Yield the model of a library that a text begins with, if its source knows the tensors."""
    known = registered_models(library)
    found = [name for name in known if re.match(rf"{re.escape(name)}(?![0-9A-Za-z])", text)]
    for name in sorted(found, key=len, reverse=True)[:1]:
        stems = {re.sub(r"\d+$", "", tensor.partition(".")[0]) for tensor in headers.infos}
        if all(stem in known[name] for stem in stems):
            classes = _classes(headers)
            arguments = {} if classes in (None, CLASSES) else {"num_classes": classes}
            yield f"{library}:{name}", arguments


def _classes(headers: Headers) -> int | None:
    """Return the number of classes of a checkpoint's head, None if it has none."""
    rows = [
        info.shape[0]
        for name, info in headers.infos.items()
        if name.partition(".")[0] in HEADS and name.endswith(".weight") and len(info.shape) > 1
    ]
    return rows[-1] if rows else None


def _name(architecture: str) -> str:
    """Return a model's name without the tag of its weights."""
    return architecture.partition(".")[0]


@cache
def registered_models(library: str) -> Mapping[str, str]:
    """Return the models that an installed library registers, each with the source it is in."""
    found = importlib.util.find_spec(library)
    folders = found.submodule_search_locations if found else None
    if not folders:
        return {}
    texts = [path.read_text("utf-8") for path in sorted(Path(folders[0]).glob("models/**/*.py"))]
    return {name: text for text in texts for name in REGISTERED.findall(text)}
