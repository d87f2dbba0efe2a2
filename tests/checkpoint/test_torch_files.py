"""PyTorch files: found, read without running code, and written back in the same form."""

import argparse
import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rebasin_cli.checkpoint.layout import layout_for
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import Written, write_checkpoint
from rebasin_cli.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def copied(
    source: Path, target: Path, *, key: str | None = None, drop: str = "", format: str = ""
) -> Written:
    """Write every tensor, doubled, in the form of the source."""
    with open_checkpoint(source, key=key) as checkpoint:
        return write_checkpoint(
            target,
            [checkpoint.info(name) for name in checkpoint.names() if name != drop],
            lambda name: checkpoint.load(name) * 2,
            layout_for(checkpoint.layout, format or checkpoint.layout.format),
            metadata={},
            overwrite=False,
        )


def loaded(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".PT", ".PTH.TAR"])
def test_a_plain_state_dict_opens_under_every_ending(tmp_path, ending):
    with open_checkpoint(saved(tmp_path / f"model.v1{ending}", STATE)) as checkpoint:
        assert checkpoint.names() == ("a.weight", "a.bias")
        assert checkpoint.info("a.weight").shape == (2, 3)
        assert torch.equal(checkpoint.load("a.weight"), STATE["a.weight"])
        assert checkpoint.layout.format == "pt"
        assert checkpoint.metadata == {}


@pytest.mark.parametrize("form", [{"_use_new_zipfile_serialization": False}, {}])
def test_both_archive_forms_are_read_and_rewritten(tmp_path, form):
    source = saved(tmp_path / "model.v1.pt", STATE, **form)
    written = copied(source, tmp_path / "out.v1.pt")
    assert torch.equal(loaded(written.path)["a.bias"], torch.full((2,), 2.0))
    assert open_checkpoint(written.path).sha256() == written.sha256


def test_the_nesting_stays_and_only_the_weights_change(tmp_path):
    source = saved(
        tmp_path / "run.ckpt",
        {
            "epoch": 3,
            "step": torch.tensor(7),
            "hyper": argparse.Namespace(lr=0.1),
            "loss": np.float64(0.5),
            "history": np.arange(3),
            "state_dict": collections.OrderedDict(
                {f"module.{name}": tensor for name, tensor in STATE.items()}, extra="kept"
            ),
            "optimizer": {"state": {0: {"momentum": torch.full((2,), 9.0)}}, "groups": [{"lr": 1}]},
        },
    )
    written = copied(source, tmp_path / "out.ckpt")
    with open_checkpoint(written.path) as checkpoint:
        assert checkpoint.names() == ("a.weight", "a.bias")
        assert torch.equal(checkpoint.load("a.weight"), 2 * STATE["a.weight"])
    whole = torch.load(written.path, weights_only=False)
    assert list(whole) == ["epoch", "step", "hyper", "loss", "history", "state_dict", "optimizer"]
    assert list(whole["state_dict"]) == ["module.a.weight", "module.a.bias", "extra"]
    assert isinstance(whole["state_dict"], collections.OrderedDict)
    assert whole["hyper"].lr == 0.1
    assert whole["loss"] == 0.5
    assert whole["history"].tolist() == [0, 1, 2]
    assert whole["optimizer"]["state"][0]["momentum"].tolist() == [9, 9]


def test_the_version_record_of_a_state_dict_stays(tmp_path):
    source = saved(tmp_path / "x.pt", torch.nn.Linear(2, 2).state_dict())
    copied(source, tmp_path / "y.pt")
    assert loaded(tmp_path / "y.pt")._metadata == loaded(source)._metadata


def test_parameters_stay_parameters(tmp_path):
    source = saved(tmp_path / "x.pt", {"w": torch.nn.Parameter(torch.ones(2), requires_grad=False)})
    copied(source, tmp_path / "y.pt")
    found = loaded(tmp_path / "y.pt")["w"]
    assert isinstance(found, torch.nn.Parameter)
    assert found.tolist() == [2, 2]
    assert not found.requires_grad


CONTAINERS: Mapping[str, tuple[Any, str | None, str]] = {
    "state_dict": ({"model": {"m": 1}, "state_dict": {"s": 1}}, None, "s"),
    "model before ema": ({"ema": {"e": 1}, "model": {"m": 1}}, None, "m"),
    "model_state_dict": ({"model_state_dict": {"m": 1}, "n": 1}, None, "m"),
    "two deep": ({"model": {"state_dict": {"d": 1}}}, None, "d"),
    "named": ({"ema": {"e": 1}, "model": {"m": 1}}, "ema", "e"),
    "named, unusual": ({"net_g": {"g": 1}}, "net_g", "g"),
    "named, dotted": ({"ema": {"shadow": {"e": 1}}}, "ema.shadow", "e"),
    "named, dots in the key": ({"ema.v2": {"x.y": {"e": 1}}}, "ema.v2.x.y", "e"),
}


def with_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: with_tensors(part) for key, part in value.items()}
    return torch.ones(value)


@pytest.mark.parametrize("case", CONTAINERS)
def test_the_weights_are_found(tmp_path, case):
    container, key, name = CONTAINERS[case]
    path = saved(tmp_path / "x.pt", with_tensors(container))
    with open_checkpoint(path, key=key) as checkpoint:
        assert checkpoint.names() == (name,)
    copied(path, tmp_path / "y.pt", key=key)
    with open_checkpoint(tmp_path / "y.pt", key=key) as checkpoint:
        assert checkpoint.load(name).tolist() == [2]


@pytest.mark.parametrize(
    ("container", "key", "message"),
    [
        (
            {"net_g": 1, "epoch": "3"},
            None,
            r"no state dict found\nit holds net_g \(int\), epoch \(str\)\nhint: nothing in it",
        ),
        (
            {"net_g": {"a": torch.ones(1)}},
            None,
            r"no state dict found\nit holds net_g \(1 tensor\)\nhint: .*--key: net_g",
        ),
        ({}, None, "no state dict found\nit holds nothing"),
        (
            torch.optim.SGD([torch.ones(2)], lr=0.1).state_dict(),
            None,
            "hint: this is the state of an optimizer: `rebasin apply",
        ),
        (
            [torch.ones(1)],
            None,
            "no state dict found\nit holds a list, not named parts\nhint: save its state dict as a",
        ),
        ({"net": {"w": {"a": torch.ones(1)}, 0: {"b": torch.ones(1)}}}, None, "--key: net.w$"),
        ({"net": {"w": {"a": torch.ones(1)}}}, "net", "hint: did you mean 'net.w'"),
        (
            {"ema": {"a": torch.ones(1)}},
            "emma",
            r"there is no part 'emma'\nit holds ema \(1 tensor\)\nhint: did you mean 'ema'",
        ),
        (
            {"model": {"a": torch.ones(1)}},
            "model.a",
            r"the part 'model.a' is not a state dict\nit holds a Tensor",
        ),
        (
            {"model": {"a": torch.ones(1)}, "args": {"lr": 1}},
            "args",
            r"the part 'args' is not a state dict\nit holds lr",
        ),
        (
            {"a": torch.ones(1), "s": torch.eye(2).to_sparse()},
            None,
            "tensor 's' is sparse, which is not supported",
        ),
        ({"a": torch.ones(1, device="meta")}, None, "tensor 'a' is without data"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, container, key, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved(tmp_path / "x.pt", container), key=key)


def test_a_truncated_file_is_noticed_before_its_pages_are_touched(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(100_000)})
    checkpoint = open_checkpoint(path)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        checkpoint.load("a")


def test_tied_tensors_are_one_in_the_file_and_tied_again(tmp_path):
    weight = torch.ones(50_000)
    source = saved(
        tmp_path / "x.pt",
        {"emb": weight, "free": torch.ones(3), "head": weight, "half": weight[:25_000]},
    )
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.names() == ("emb", "free", "head", "half")
        assert checkpoint.ties == {"head": "emb"}
    written = copied(source, tmp_path / "y.pt")
    assert written.bytes < 310_000
    state = loaded(written.path)
    assert list(state) == ["emb", "free", "head", "half"]
    assert state["head"].data_ptr() == state["emb"].data_ptr() != state["half"].data_ptr()
    assert open_checkpoint(written.path).ties == {"head": "emb"}


def test_an_alias_follows_its_tensor_even_if_it_is_not_listed(tmp_path):
    weight = torch.ones(5)
    source = saved(tmp_path / "x.pt", {"emb": weight, "head": weight})
    copied(source, tmp_path / "y.pt", drop="head")
    assert list(loaded(tmp_path / "y.pt")) == ["emb", "head"]
    copied(source, tmp_path / "z.pt", drop="emb")
    assert list(loaded(tmp_path / "z.pt")) == ["head"]


def test_an_alias_is_not_asked_for(tmp_path):
    weight = torch.ones(5)
    asked: list[str] = []
    with open_checkpoint(saved(tmp_path / "x.pt", {"emb": weight, "head": weight})) as checkpoint:

        def produce(name: str) -> torch.Tensor:
            asked.append(name)
            return checkpoint.load(name)

        infos = [checkpoint.info(name) for name in checkpoint.names()]
        write_checkpoint(
            tmp_path / "y.pt", infos, produce, checkpoint.layout, metadata={}, overwrite=False
        )
    assert asked == ["emb"]


def test_empty_tensors_are_not_tied(tmp_path):
    source = saved(tmp_path / "x.pt", {"a": torch.ones(0), "b": torch.ones(0)})
    assert open_checkpoint(source).ties == {}


def test_a_view_does_not_bring_its_whole_memory(tmp_path):
    big = torch.ones(500_000)
    source = saved(tmp_path / "x.pt", {"a": torch.ones(2), "b": torch.ones(2)})
    with open_checkpoint(source) as checkpoint:
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        written = write_checkpoint(
            tmp_path / "y.pt",
            infos,
            lambda name: big[:2],
            checkpoint.layout,
            metadata={},
            overwrite=False,
        )
    assert written.bytes < 5_000
    assert open_checkpoint(written.path).ties == {}


def test_tensors_made_from_one_memory_are_not_tied(tmp_path):
    same = torch.ones(2)
    source = saved(tmp_path / "x.pt", {"a": torch.ones(2), "b": torch.ones(2)})
    with open_checkpoint(source) as checkpoint:
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        layout = checkpoint.layout
    write_checkpoint(
        tmp_path / "y.pt", infos, lambda name: same, layout, metadata={}, overwrite=False
    )
    assert open_checkpoint(tmp_path / "y.pt").ties == {}


def test_tensors_that_are_not_listed_are_dropped(tmp_path):
    source = saved(tmp_path / "x.pt", {"state_dict": {**STATE, "note": "text"}, "epoch": 1})
    copied(source, tmp_path / "y.pt", drop="a.bias")
    assert list(loaded(tmp_path / "y.pt")["state_dict"]) == ["a.weight", "note"]


def test_a_nested_file_becomes_a_flat_safetensors_file(tmp_path):
    source = saved(tmp_path / "x.ckpt", {"epoch": 1, "state_dict": {"module.w": torch.ones(2)}})
    copied(source, tmp_path / "y.safetensors", format="safetensors")
    with open_checkpoint(tmp_path / "y.safetensors") as checkpoint:
        assert checkpoint.stored_name("w") == "module.w"
        assert checkpoint.load("w").tolist() == [2, 2]


def test_two_writes_give_the_same_bytes(tmp_path):
    weight = torch.ones(5)
    source = saved(tmp_path / "x.pt", {"model": {"e": weight, "h": weight, "b": torch.ones(2)}})
    first = copied(source, tmp_path / "one.pt")
    second = copied(source, tmp_path / "another.pt")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256 == open_checkpoint(first.path).sha256()


def test_a_container_that_holds_itself_has_an_end(tmp_path):
    container: dict[str, Any] = {"epoch": 1}
    container["model"] = container
    with pytest.raises(CheckpointError, match="no state dict found"):
        open_checkpoint(saved(tmp_path / "x.pt", container))
