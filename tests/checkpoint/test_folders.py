"""Folders and shards: found, checked against their index, and written whole."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.checkpoint.layout import layout_for
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import Written, write_checkpoint, write_tensors
from rebasin_cli.errors import CheckpointError, UsageError

SHARDS = {
    "model-00001-of-00002.safetensors": {"a": torch.ones(2), "b": torch.ones(3)},
    "model-00002-of-00002.safetensors": {"c": torch.ones(4)},
}
INDEX = "model.safetensors.index.json"


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        write_tensors(path, tensors, metadata={"format": "pt"}, overwrite=True)
    else:
        torch.save(tensors, path)


def folder_of(
    folder: Path, *, shards: dict[str, dict[str, Tensor]] | None = None, index: str = INDEX
) -> Path:
    """Make a sharded checkpoint with the files that go with one."""
    shards = shards or SHARDS
    folder.mkdir(parents=True)
    for name, tensors in shards.items():
        save(folder / name, tensors)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"heads": 2}')
    (folder / "tokenizer.model").write_bytes(b"\0tok")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "tf_model.h5").write_bytes(b"other weights")
    (folder / ".gitattributes").write_text("hidden")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"weights")
    (folder / "checkpoint-5" / "config.json").write_text("{}")
    return folder


def mapped(folder: Path, weight_map: object) -> Path:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def copied(
    source: Path, target: Path, *, format: str = "", overwrite: bool = False, drop: str = ""
) -> Written:
    """Write every tensor, doubled, in the form of the source."""
    with open_checkpoint(source) as checkpoint:
        return write_checkpoint(
            target,
            [checkpoint.info(name) for name in checkpoint.names() if name not in drop.split()],
            lambda name: checkpoint.load(name) * 2,
            layout_for(checkpoint.layout, format or checkpoint.layout.format),
            metadata=checkpoint.metadata,
            overwrite=overwrite,
        )


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("named", ["", INDEX])
def test_a_sharded_folder_opens_as_one(tmp_path, named):
    folder = folder_of(tmp_path / "m")
    with open_checkpoint(folder / named) as checkpoint:
        assert checkpoint.names() == ("a", "b", "c")
        assert [path.name for path in checkpoint.files] == sorted(SHARDS)
        assert checkpoint.load("c").tolist() == [1] * 4
        assert checkpoint.config == {"heads": 2}
        assert checkpoint.metadata == {"format": "pt"}
        assert checkpoint.path == folder / named


def test_a_sharded_folder_is_written_with_its_shards_and_other_files(tmp_path):
    written = copied(folder_of(tmp_path / "m"), tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == sorted(
        [*SHARDS, INDEX, "config.json", "tokenizer.model", "1_Pooling/config.json"]
    )
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.names() == ("a", "b", "c")
        assert checkpoint.load("b").tolist() == [2, 2, 2]
        assert checkpoint.sha256() == written.sha256
        assert sum(path.stat().st_size for path in checkpoint.files) == written.bytes
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"] == {"total_size": 36}
    assert index["weight_map"]["c"] == "model-00002-of-00002.safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def test_two_folders_written_are_equal(tmp_path):
    source = folder_of(tmp_path / "m")
    copied(source, tmp_path / "one")
    copied(source, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_an_empty_shard_is_left_out_and_a_new_tensor_goes_to_the_last(tmp_path):
    copied(folder_of(tmp_path / "m"), tmp_path / "out", drop="a b")
    assert open_checkpoint(tmp_path / "out").names() == ("c",)
    assert "model-00001-of-00002.safetensors" not in tree(tmp_path / "out")


def test_sharded_torch_files_change_their_format_and_back(tmp_path):
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    shards = dict(zip(names, SHARDS.values(), strict=True))
    index = "pytorch_model.bin.index.json"
    source = folder_of(tmp_path / "m", shards=shards, index=index)
    copied(source, tmp_path / "same")
    assert {*names, index} <= tree(tmp_path / "same").keys()
    assert open_checkpoint(tmp_path / "same").load("c").tolist() == [2] * 4
    copied(source, tmp_path / "st", format="safetensors")
    assert {*SHARDS, INDEX} <= tree(tmp_path / "st").keys()
    assert not {*names, index} & tree(tmp_path / "st").keys()
    copied(tmp_path / "st", tmp_path / "back", format="pt")
    assert {*names, index} <= tree(tmp_path / "back").keys()
    assert open_checkpoint(tmp_path / "back").load("c").tolist() == [4] * 4


@pytest.mark.parametrize("name", ["model.safetensors", "mynet.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file_keeps_its_name(tmp_path, name):
    (tmp_path / "m").mkdir()
    save(tmp_path / "m" / name, {"a": torch.ones(2)})
    copied(tmp_path / "m", tmp_path / "out")
    assert list(tree(tmp_path / "out")) == [name]
    other = "pt" if name.endswith("safetensors") else "safetensors"
    copied(tmp_path / "m", tmp_path / "other", format=other)
    usual = "pytorch_model.bin" if other == "pt" else "model.safetensors"
    assert list(tree(tmp_path / "other")) == [usual]


def test_safetensors_win_over_bin_and_an_index_over_a_file(tmp_path):
    folder = folder_of(tmp_path / "m")
    save(folder / "model.safetensors", {"x": torch.ones(1)})
    save(folder / "pytorch_model.bin", {"y": torch.ones(1)})
    assert open_checkpoint(folder).names() == ("a", "b", "c")
    (folder / INDEX).unlink()
    assert open_checkpoint(folder).names() == ("x",)
    (folder / "model.safetensors").unlink()
    assert open_checkpoint(folder).names() == ("y",)


def test_what_diffusers_writes_wins_over_its_variants(tmp_path):
    folder, usual = tmp_path / "m", "diffusion_pytorch_model.safetensors"
    folder_of(folder, index=f"{usual}.index.json")
    (folder / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("{}")
    save(folder / usual, {"x": torch.ones(1)})
    save(folder / "diffusion_pytorch_model.fp16.safetensors", {"y": torch.ones(1)})
    save(folder / "diffusion_pytorch_model.bin", {"z": torch.ones(1)})
    assert open_checkpoint(folder).names() == ("a", "b", "c")
    for index in folder.glob("*.index.json"):
        index.unlink()
    assert open_checkpoint(folder).names() == ("x",)
    copied(folder, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").names() == ("x",)
    (folder / usual).unlink()
    assert open_checkpoint(folder).names() == ("z",)


def test_several_weight_files_are_listed(tmp_path):
    for name in ("one.safetensors", "two.pt"):
        save(tmp_path / name, {"a": torch.ones(1)})
    with pytest.raises(
        CheckpointError,
        match=r"2 weight files in this folder\none.safetensors, two.pt\nhint: name one",
    ):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights in this folder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "sub/../../x.safetensors", "", ".", 3]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, shard):
    save(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    (tmp_path / "m").mkdir()
    with pytest.raises(
        CheckpointError, match=r"tensor 'a': the shard .* is (outside|not a file name)"
    ):
        open_checkpoint(mapped(tmp_path / "m", {"a": shard}))


def test_shards_in_a_subfolder_stay_there(tmp_path):
    (tmp_path / "m" / "sub").mkdir(parents=True)
    save(tmp_path / "m" / "sub" / "x.safetensors", {"a": torch.ones(1)})
    copied(mapped(tmp_path / "m", {"a": "./sub/x.safetensors"}), tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == [INDEX, "sub/x.safetensors"]


def test_missing_shards_are_all_named(tmp_path):
    folder = folder_of(tmp_path / "m")
    for name in SHARDS:
        (folder / name).unlink()
    with pytest.raises(
        CheckpointError, match=r"2 of 2 shards are missing\nmodel-00001.*, model-00002"
    ):
        open_checkpoint(folder)


def test_a_stale_index_is_refused_with_every_difference(tmp_path):
    folder = folder_of(tmp_path / "m")
    one, two = SHARDS
    mapped(folder, {"a": one, "b": two, "gone": two, "c": two})
    with pytest.raises(
        CheckpointError, match="the index says tensor 'b' is in 'model-00002"
    ) as caught:
        open_checkpoint(folder)
    assert [problem.what for problem in caught.value.problems] == [
        f"the index says tensor 'b' is in '{two}', but it is not there",
        f"the index says tensor 'gone' is in '{two}', but it is not there",
        f"tensor 'b' is in '{one}', but the index does not say so",
    ]
    assert "without an index" in caught.value.problems[-1].hint
    (folder / INDEX).unlink()
    with open_checkpoint(folder) as found:
        assert found.names() == ("a", "b", "c")


def test_many_differences_are_counted(tmp_path):
    folder = folder_of(tmp_path / "m")
    one, two = SHARDS
    mapped(folder, {"a": one, "b": one, "c": two, **{f"t{i}": two for i in range(30)}})
    with pytest.raises(CheckpointError, match=r"and 20 more\nhint") as caught:
        open_checkpoint(folder)
    assert len(caught.value.problems) == 11


def test_damaged_shards_are_all_named(tmp_path):
    folder = folder_of(tmp_path / "m")
    for name in SHARDS:
        (folder / name).write_bytes(b"12345")
    with pytest.raises(CheckpointError, match=r"00001(.|\n)*too short(.|\n)*00002(.|\n)*too short"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the index is not JSON"),
        ("[]", "the index is not a JSON object"),
        ("{}", "the index has no weight_map"),
        ('{"weight_map": {}}', "the index has no weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "the index has duplicate keys: 'a'"),
    ],
)
def test_a_broken_index_is_refused(tmp_path, text, message):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_shards_of_two_formats_are_refused(tmp_path):
    shards = {"x.safetensors": {"a": torch.ones(1)}, "y.bin": {"b": torch.ones(1)}}
    with pytest.raises(CheckpointError, match="the shards are of two formats"):
        open_checkpoint(folder_of(tmp_path / "m", shards=shards))


def test_replacing_a_folder_in_place_keeps_all_but_the_old_weights(tmp_path):
    folder = folder_of(tmp_path / "m")
    (folder / "link").symlink_to("config.json")
    before = tree(folder)
    copied(folder, folder, overwrite=True)
    after = tree(folder)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {*SHARDS, INDEX}
    assert (folder / "link").is_symlink()
    assert open_checkpoint(folder).load("c").tolist() == [2] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_old_shards_and_index_go_when_one_file_replaces_them(tmp_path):
    old = folder_of(tmp_path / "old")
    (tmp_path / "m").mkdir()
    save(tmp_path / "m" / "model.safetensors", {"x": torch.ones(1)})
    copied(tmp_path / "m", old, overwrite=True)
    assert open_checkpoint(old).names() == ("x",)
    assert not {*SHARDS, INDEX} & tree(old).keys()


def test_an_existing_folder_needs_overwrite_and_an_empty_one_does_not(tmp_path):
    source = folder_of(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    copied(source, tmp_path / "empty")
    before = tree(tmp_path / "empty")
    with pytest.raises(UsageError, match="already exists\nhint: --force"):
        copied(source, tmp_path / "empty")
    assert tree(tmp_path / "empty") == before


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path):
    source = folder_of(tmp_path / "m")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="will not replace a folder that is not a checkpoint"):
        copied(source, tmp_path / "home", overwrite=True)
    assert tree(tmp_path / "home") == {"thesis.tex": b"precious"}


def test_weights_that_stay_must_not_be_mistaken_for_the_new_ones(tmp_path):
    old = folder_of(
        tmp_path / "old",
        shards={"x.bin": {"a": torch.ones(1)}},
        index="pytorch_model.bin.index.json",
    )
    save(old / "model.safetensors", {"stale": torch.ones(1)})
    (tmp_path / "m").mkdir()
    save(tmp_path / "m" / "pytorch_model.bin", {"a": torch.ones(1)})
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="would be mistaken for the new ones"):
        copied(tmp_path / "m", old, overwrite=True)
    assert tree(tmp_path) == before


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "x").write_text("file")
    with pytest.raises(UsageError, match="exists and is not a folder"):
        copied(folder_of(tmp_path / "m"), tmp_path / "x", overwrite=True)


def test_a_target_inside_the_source_is_not_copied_into_itself(tmp_path):
    folder = folder_of(tmp_path / "m")
    copied(folder, folder / "out")
    copied(folder, folder / "out", overwrite=True)
    assert not (folder / "out" / "out").exists()
