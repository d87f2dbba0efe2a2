"""open and save: whole or not at all, in the form of the file that a result was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import rebasin_cli as rb
from tests.api.nets import convolutions, mlp, same


def nested(seed: int) -> dict[str, Any]:
    model = mlp(seed).state_dict()
    average = {name: tensor * 0.9 for name, tensor in model.items()}
    return {"model": model, "ema": average, "step": 3}


@pytest.mark.parametrize("name", ["d.safetensors", "D.SAFETENSORS", "d.pt", "D.PT", "d.pth.tar"])
def test_a_state_dict_is_written_as_the_ending_says(tmp_path: Path, name: str) -> None:
    state = rb.align(mlp(0), mlp(1))
    written = rb.save(state, tmp_path / name)
    assert written.path == tmp_path / name
    zipped = (tmp_path / name).read_bytes()[:2] == b"PK"
    assert zipped == ("PT" in name.upper())
    with rb.open(tmp_path / name) as found:
        assert same({n: found.load(n) for n in state}, state)


def test_an_ending_that_names_no_format_needs_one(tmp_path: Path) -> None:
    with pytest.raises(rb.RebasinError, match="names no format"):
        rb.save(mlp(0), tmp_path / "weights.xyz")
    rb.save(mlp(0), tmp_path / "weights.xyz", format="safetensors")
    assert load_file(tmp_path / "weights.xyz").keys() == mlp(0).state_dict().keys()


def test_a_file_that_is_there_is_replaced_if_that_is_wanted(tmp_path: Path) -> None:
    place = tmp_path / "d.safetensors"
    rb.save(mlp(0), place)
    before = place.read_bytes()
    with pytest.raises(rb.RebasinError, match="exists"):
        rb.save(mlp(1), place)
    assert place.read_bytes() == before
    rb.save(mlp(1), place, force=True)
    assert place.read_bytes() != before and [p.name for p in tmp_path.iterdir()] == [place.name]


def test_what_a_result_was_made_from_is_replaced_in_place_alone(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, path in enumerate(paths):
        save_file(mlp(seed).state_dict(), path)
    wanted = rb.align(mlp(0), mlp(1))
    for made in (rb.align(*paths), rb.merge(paths), rb.match(*paths)):
        with pytest.raises(rb.RebasinError, match="is one of the inputs"):
            rb.save(made, paths[1], force=True)
    rb.save(rb.align(*paths), paths[1], in_place=True)
    found = load_file(paths[1])
    assert same({name: found[name] for name in wanted}, wanted)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    broken: Any = {"x": torch.zeros(3), "y": torch.zeros(3, device="meta")}
    with pytest.raises(rb.RebasinError, match="no values"):
        rb.save(broken, tmp_path / "d.safetensors")
    with pytest.raises(rb.RebasinError, match="does not exist"):
        rb.save(mlp(0), tmp_path / "none" / "d.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_other_weights_in_a_nested_file_follow(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        torch.save(nested(seed), tmp_path / f"{name}.pt")
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    found = rb.match(a, b)
    rb.save(found.apply(b), tmp_path / "aligned.pt")
    aligned = torch.load(tmp_path / "aligned.pt", weights_only=True)
    assert aligned.keys() == nested(1).keys() and aligned["step"] == 3
    assert same(aligned["model"], found.apply(nested(1)["model"]))
    assert same(aligned["ema"], found.apply(nested(1)["ema"]))
    rb.save(rb.lerp(a, b, 0.5), tmp_path / "between.pt")
    between = torch.load(tmp_path / "between.pt", weights_only=True)
    assert same(between["ema"], rb.lerp(nested(0)["ema"], nested(1)["ema"], 0.5))
    rb.save(found.apply(rb.open(b, key="ema")), tmp_path / "ema.pt")
    assert same(torch.load(tmp_path / "ema.pt", weights_only=True)["ema"], aligned["ema"])


def test_a_sharded_folder_comes_out_as_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    state = mlp(1).state_dict()
    halves = [list(state)[:3], list(state)[3:]]
    for number, names in enumerate(halves, 1):
        shard = tmp_path / "a" / f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, shard, {"format": "pt"})
    rb.save(rb.align(mlp(0), tmp_path / "a"), tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f.name for f in sorted((tmp_path / "a").iterdir())]
    both: dict[str, Tensor] = {**load_file(files[0]), **load_file(files[1])}
    wanted = rb.align(mlp(0), mlp(1))
    assert same({name: both[name] for name in wanted}, wanted)


def test_tied_tensors_are_one_in_files(tmp_path: Path) -> None:
    first = torch.randn(4, 3)
    state = {"a": first, "b": first, "strided": torch.randn(5, 6)[:, ::2]}
    rb.save(state, tmp_path / "d.safetensors")
    assert load_file(tmp_path / "d.safetensors").keys() == {"a", "strided"}
    rb.save(state, tmp_path / "d.pt")
    found = torch.load(tmp_path / "d.pt", weights_only=True)
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert same({name: found[name] for name in state}, state)


def test_what_is_computed_late_can_be_computed_with(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save_file(mlp(seed).state_dict(), tmp_path / f"{name}.safetensors")
    a, b = (tmp_path / f"{name}.safetensors" for name in "ab")
    quarter = rb.lerp(a, rb.lerp(a, b, 0.5), 0.5)
    rb.save(quarter, tmp_path / "quarter.safetensors")
    wanted = rb.lerp(mlp(0), rb.lerp(mlp(0), mlp(1), 0.5), 0.5)
    found = load_file(tmp_path / "quarter.safetensors")
    assert same({name: found[name] for name in wanted}, wanted)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"dtype": "int8"}, "no dtype is called 'int8'"), ({"format": "onnx"}, "no format is called")],
)
def test_what_is_no_form_is_refused(tmp_path: Path, options: dict[str, str], text: str) -> None:
    with pytest.raises(rb.RebasinError, match=text):
        rb.save(convolutions(0), tmp_path / "d.safetensors", **options)  # type: ignore[arg-type]


def test_what_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="the model is of type int"):
        rb.save(3, tmp_path / "d.safetensors")  # type: ignore[arg-type]


def test_a_file_is_opened_under_other_names(tmp_path: Path) -> None:
    save_file({"old.x": torch.ones(2)}, tmp_path / "d.safetensors")
    with rb.open(tmp_path / "d.safetensors", rename=r"old\.=new.") as found:
        assert found.names() == ("new.x",)
    with pytest.raises(rb.RebasinError, match="is not OLD=NEW"):
        rb.open(tmp_path / "d.safetensors", rename="old")


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_what_was_closed_says_so(tmp_path: Path, ending: str) -> None:
    rb.save(mlp(0), tmp_path / f"d.{ending}")
    with rb.open(tmp_path / f"d.{ending}") as found:
        pass
    with pytest.raises(rb.RebasinError, match="the file was closed"):
        found.load(found.names()[0])


def test_what_is_no_tensor_is_left_out_aloud(tmp_path: Path) -> None:
    state: dict[str, Any] = {**mlp(0).state_dict(), "epoch": 3}
    with pytest.warns(rb.RebasinWarning, match="left out 'epoch'|left out epoch") as told:
        rb.save(state, tmp_path / "d.pt")
    assert told[0].filename == __file__
    assert "epoch" not in torch.load(tmp_path / "d.pt", weights_only=True)
