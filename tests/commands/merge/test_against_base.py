"""`rebasin merge --combine`: differences to a base, in its order; options that contradict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import rebasin_cli as rb
from tests.cli.build import load, mlp, near, same, save, shuffled
from tests.cli.harness import Done, rebasin

MODELS = ("a.safetensors", "b.safetensors")
BASE = ("--base", "base.safetensors")


def written(folder: Path, *, moved: bool = False) -> tuple[dict[str, Tensor], ...]:
    """Write two fine-tunes of a base, and the base; moved: the second in another order."""
    base = mlp(1)
    states = near(base, 2), near(base, 3), base
    files = (states[0], shuffled(states[1], 9) if moved else states[1], base)
    for name, state in zip(("a", "b", "base"), files, strict=True):
        save(folder / f"{name}.safetensors", state)
    return states


def merge(folder: Path, *argv: str) -> Done:
    return rebasin("merge", *MODELS, *argv, "-o", "m.safetensors", "--force", cwd=folder)


def merged(folder: Path, *argv: str) -> dict[str, Tensor]:
    done = merge(folder, *argv)
    assert done.code == 0, done.err
    found: dict[str, Tensor] = load(folder / "m.safetensors")
    return found


@pytest.mark.parametrize("strategy", [None, "star", "many"])
def test_differences_are_taken_after_alignment_in_the_order_of_the_base(
    tmp_path: Path, strategy: str | None
) -> None:
    a, b, base = written(tmp_path, moved=True)
    how = ("--combine", "task-arithmetic", "--scale", "0.5", "-w", "1,2")
    found = merged(tmp_path, *BASE, *how, *(("--strategy", strategy) if strategy else ()))
    for name, tensor in found.items():
        wanted = base[name] + 0.5 * (a[name] - base[name]) + (b[name] - base[name])
        torch.testing.assert_close(tensor, wanted)


def test_one_fine_tune_and_a_base_are_enough(tmp_path: Path) -> None:
    a, _, base = written(tmp_path)
    how = ("--combine", "task-arithmetic", "--scale", "-1", "--strategy", "none")
    done = rebasin("merge", "a.safetensors", *BASE, *how, "-o", "m.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    for name, tensor in load(tmp_path / "m.safetensors").items():
        torch.testing.assert_close(tensor, 2 * base[name] - a[name])


def test_dare_is_the_same_from_shards_and_from_python(tmp_path: Path) -> None:
    states = written(tmp_path)
    how = (*BASE, "--combine", "dare", "--strategy", "none", "--seed", "5")
    whole = merged(tmp_path, *how)
    names = list(states[0])
    shards = {f"model-{k}.safetensors": names[k::2] for k in range(2)}
    folder = tmp_path / "shards"
    folder.mkdir()
    for file, held in shards.items():
        save(folder / file, {name: states[0][name] for name in held})
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = rebasin("merge", "shards", "b.safetensors", *how, "-o", "out/", cwd=tmp_path)
    assert done.code == 0, done.err
    parts = [load(path) for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    assert same({name: tensor for part in parts for name, tensor in part.items()}, whole)
    from_python = rb.merge(states[:2], base=states[2], combine="dare", strategy="none", seed=5)
    assert same(from_python, whole)
    assert not same(merged(tmp_path, *how[:-1], "6"), whole)


def test_the_result_is_in_the_dtypes_of_the_first_model(tmp_path: Path) -> None:
    a, b, base = written(tmp_path)
    half = {name: tensor.bfloat16() for name, tensor in a.items()}
    save(tmp_path / "a.safetensors", half)
    found = merged(tmp_path, *BASE, "--combine", "ties", "--strategy", "none")
    made = rb.merge([half, b], base=base, combine="ties", strategy="none")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert same(made, found)


def test_the_result_tells_what_it_was_made_by(tmp_path: Path) -> None:
    written(tmp_path)
    how = ("--combine", "ties", "--density", "0.3", "--strategy", "none", "-w", "2.*=1,3")
    event: dict[str, Any] = merge(tmp_path, *BASE, *how, "--json").events[0]
    told = {name: event[name] for name in ("combine", "density", "scale", "tensor_weights")}
    assert told == {
        "combine": "ties",
        "density": 0.3,
        "scale": 1,
        "tensor_weights": {"2.*": [1, 3]},
    }
    assert (event["base"], event["models"], event["weights"]) == (BASE[1], [*MODELS], [1, 1])
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert {name: record[name] for name in told} == told
    assert record["base"]["name"] == BASE[1]
    assert len(record["base"]["sha256"]) == 64
    assert [entry["name"] for entry in record["inputs"]] == [*MODELS]
    assert "2 models merged by ties, density 0.3, scale 1: " in merge(tmp_path, *BASE, *how).err


def test_weights_for_globs_count_where_they_name_a_tensor(tmp_path: Path) -> None:
    a, b, _ = written(tmp_path)
    found = merged(tmp_path, "--strategy", "none", "-w", "1,1", "-w", "{2..4}.w*=0,1")
    assert torch.equal(found["2.weight"], b["2.weight"])
    torch.testing.assert_close(found["2.bias"], (a["2.bias"] + b["2.bias"]) / 2)
    made = rb.merge([a, b], strategy="none", tensor_weights={"{2..4}.w*": (0, 1)})
    assert same(made, found)


def test_whole_numbers_and_what_is_left_out(tmp_path: Path) -> None:
    for state, count, name in zip(written(tmp_path), (5, 8, 2), ("a", "b", "base"), strict=True):
        save(tmp_path / f"{name}.safetensors", {**state, "steps": torch.tensor([count])})
    how = (*BASE, "--combine", "task-arithmetic", "--strategy", "none", "-w", "1,2")
    found = merged(tmp_path, *how, "--skip", "2.*")
    assert found["steps"] == 8
    assert torch.equal(found["2.weight"], load(tmp_path / "base.safetensors")["2.weight"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--combine tise", "no value of --combine is called 'tise'"),
        ("--combine ties", "--combine ties needs --base"),
        ("--base base.safetensors", "--combine mean uses no --base"),
        ("--density 0.5", "--combine mean uses no --density"),
        ("--combine slerp-n --scale 2", "--combine slerp-n uses no --scale"),
        ("--combine slerp-n -w 1,-2", "slerp-n takes no weight below zero"),
        ("--combine ties --base base.safetensors --density 0", "--density 0: expected a share"),
        ("--combine dare --base base.safetensors --scale inf", "--scale inf: expected a number"),
        ("--combine dare --base base.safetensors --ref a.safetensors", "--ref does not go with"),
        ("--combine model-stock --base base.safetensors -w 1,2", "model-stock takes no weights"),
        ("--combine slerp-n --renormalize repair --model x.py:y", "and this is none"),
        ("--strategy none -w x.*=1,2", "--weights: no tensor is called 'x.*'\nhint: a tensor is"),
        ("--skip head.*", "no tensor is called 'head.*'\nhint: a tensor is called '0.bias'"),
        ("--strategy none -w 2.*=1", "1 weight for 2 models"),
        ("--strategy none -w 2.*=1,-1", "the weights add up to zero"),
        ("--combine slerp-n --method zipit --model x.py:y --data x.py:z", "--method zipit goes"),
        ("--combine slerp-n --preserve-first 1 --model x.py:y", "--preserve-first goes with"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, argv: str, message: str) -> None:
    written(tmp_path)
    done = merge(tmp_path, *argv.split())
    assert (done.code, message in done.err) == (2, True), done.err
