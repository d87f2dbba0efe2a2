"""The model card of a result: what the Hugging Face hub reads of it, and the recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.hub import hub_name
from rebasin_cli.checkpoint.remote.remote_path import HUB, RemotePath
from rebasin_cli.files.provenance import KEY
from rebasin_cli.files.targets import KEEP, Target
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.options.output import Output

# What a config.json holds, by the library that writes such ones.
LIBRARIES = {
    "_class_name": "diffusers",
    "model_type": "transformers",
    "architectures": "transformers",
    "architecture": "timm",
}
CACHED = re.compile(r"models--([^/]+)--([^/]+)")  # a model's folder in the cache of the hub
DONE = {
    "merge": "merged",
    "lerp": "interpolated",
    "transport": "the last and what the first is more than the second, put together",
}
HEAD = {"version", "command", "inputs", "basin", "weights"}  # of a record: told in other words


@dataclass(frozen=True)
class CardFacts:
    """What a card tells of an alignment: the objective, and whether functions were looked at."""

    objective: Change | None = None
    function: FunctionDifference | None = None


NOTHING = CardFacts()


def with_card(
    target: Target,
    models: Sequence[Checkpoint],
    *,
    output: Output,
    facts: Mapping[str, str],
    found: CardFacts = NOTHING,
) -> Target:
    """Return a target with the text of its model card, if one is wanted.

    facts: the metadata of the result, with its provenance.
    """
    if output.card is None:
        return target
    record = json.loads(facts[KEY])
    lines = [
        *_front(record, models),
        f"# {target.path.absolute().name.removesuffix(target.path.suffix)}",
        "",
        f"{_origin(record, models)} with [rebasin](https://arxiv.org/abs/2209.04836) "
        f"{record['version']}:",
        "",
        f"    {output.card}",
        "",
        *_inputs(record),
        *_recipe(record, output, found),
    ]
    text = "\n".join(lines) + "\n"
    # a name of a file that is no text in any language of its own
    return replace(target, text=text.encode("utf-8", "replace").decode())


def _front(record: Mapping[str, Any], models: Sequence[Checkpoint]) -> list[str]:
    """Return the YAML in front: JSON texts are its scalars."""
    made = models[-1:] if record["command"] == "align" else models
    library = next((LIBRARIES[key] for key in LIBRARIES if key in made[0].config), None)
    merged = record["command"] != "align"
    return [
        "---",
        "base_model:",
        *(f"- {json.dumps(name)}" for name in dict.fromkeys(map(_identity, made))),
        *(["base_model_relation: merge"] if merged else []),
        *([f"library_name: {library}"] if library else []),
        "tags:",
        "- rebasin",
        *(["- merge"] if merged else []),
        "---",
        "",
    ]


def _identity(model: Checkpoint) -> str:
    """Return what the hub calls a model that is of it, else the name of the file."""
    if isinstance(model.path, RemotePath) and model.path.scheme == HUB:
        return hub_name(model.path).repo
    found = CACHED.search(str(model.path.absolute()))
    return f"{found[1]}/{found[2]}" if found else model.path.absolute().name


def _origin(record: Mapping[str, Any], models: Sequence[Checkpoint]) -> str:
    names = [f"`{_identity(model)}`" for model in models]
    if record["command"] == "align":
        return f"{names[-1]} with its units reordered to lie next to those of {names[0]}, made"
    return f"{', '.join(names)}, {DONE[record['command']]}"


def _inputs(record: Mapping[str, Any]) -> list[str]:
    weights = record.get("weights") or [None] * len(record["inputs"])
    weighed = any(weight is not None for weight in weights)
    heads, rules = ["input", "SHA-256", "weight"], ["---", "---", "--:"]
    rows = [
        [f"`{entry['name']}`", f"`{entry['sha256']}`", str(weight)]
        for entry, weight in zip(record["inputs"], weights, strict=True)
    ]
    return [*(_row(row if weighed else row[:2]) for row in (heads, rules, *rows)), ""]


def _recipe(record: Mapping[str, Any], output: Output, found: CardFacts) -> list[str]:
    """Return the rest of the record, and what was found, one line each."""
    facts = {name: value for name, value in record.items() if name not in HEAD}
    lines = [f"* {name}: {_text(value)}" for name, value in sorted(facts.items())]
    lines.append(f"* dtype: {'that of the input' if output.dtype == KEEP else output.dtype}")
    if found.objective:
        before, after = found.objective.before, found.objective.after
        lines.append(f"* inner products: {before:.6g} before alignment, {after:.6g} after")
    return [*lines, f"* function of what was aligned: {_kept(found.function)}"]


def _kept(function: FunctionDifference | None) -> str:
    """Return whether reordering units was seen to keep the function."""
    if function is None:
        return "not looked at by running the model"
    return f"kept: outputs move by {function.difference:.2g} of their scale ({function.dtype})"


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
