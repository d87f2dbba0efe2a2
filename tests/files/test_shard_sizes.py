"""`--max-shard-size`: folders of shards, named as transformers names them."""

import json

import pytest
import torch

from rebasin_cli.checkpoint.layout import Layout, in_shards
from rebasin_cli.tensors import TensorInfo
from tests.cli.build import load, mlp, pair, same, save, sharded
from tests.cli.harness import rebasin

MERGE = ("merge", "a.safetensors", "b.safetensors", "--strategy", "none")


def infos(*sizes):
    return [TensorInfo(f"t{k}", (size,), torch.uint8) for k, size in enumerate(sizes)]


def whole(folder):
    """Return all tensors of a folder of shards, and check that its index tells where they are."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {path.name: load(path) for path in folder.glob("*.safetensors")}
    placed = {name: shard for shard, tensors in shards.items() for name in tensors}
    assert index["weight_map"] == placed
    state = {name: t for tensors in shards.values() for name, t in tensors.items()}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state.values())
    return state


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ((4, 4, 4), 8, [["t0", "t1"], ["t2"]]),
        ((4, 4, 4), 12, [["t0", "t1", "t2"]]),
        ((4, 20, 4), 8, [["t0"], ["t1"], ["t2"]]),
        ((20, 4), 8, [["t0"], ["t1"]]),
        ((0, 8, 0, 8), 8, [["t0", "t1", "t2"], ["t3"]]),
    ],
)
def test_files_are_filled_in_order(tmp_path, sizes, most, expected):
    layout = in_shards(Layout("safetensors"), infos(*sizes), most, tmp_path)
    files = sorted(set(layout.shards.values()))
    assert [[n for n, f in layout.shards.items() if f == file] for file in files] == expected
    count = len(expected)
    names = [f"model-{k:05}-of-{count:05}.safetensors" for k in range(1, count + 1)]
    assert files == (names if count > 1 else ["model.safetensors"])
    assert (layout.index is None) == (count == 1)


def test_names_of_diffusers_stay(tmp_path):
    stem = "diffusion_pytorch_model"
    one = Layout("safetensors", folder=tmp_path, shards={"t0": f"{stem}.safetensors"})
    layout = in_shards(one, infos(4, 4), 4, tmp_path)
    assert layout.index == f"{stem}.safetensors.index.json"
    assert set(layout.shards.values()) == {f"{stem}-0000{k}-of-00002.safetensors" for k in (1, 2)}


def test_shards_hold_what_one_file_does(tmp_path):
    pair(tmp_path)
    rebasin(*MERGE, "-o", "one.safetensors", cwd=tmp_path)
    done = rebasin(*MERGE, "-o", "many", "--max-shard-size", "400B", cwd=tmp_path)
    assert done.lines == ["many"]
    state = whole(tmp_path / "many")
    assert same(state, load(tmp_path / "one.safetensors"))
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2


def test_every_result_of_several_is_a_folder(tmp_path):
    pair(tmp_path)
    argv = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")
    done = rebasin(*argv, "--max-shard-size", "1KB", cwd=tmp_path)
    assert done.lines == ["a.safetensors", "b.aligned"]
    line = ("lerp", *done.lines, "--at", "0.25,0.5", "--max-shard-size", "1KB")
    assert rebasin(*line, cwd=tmp_path).lines == ["lerp/alpha-0.250000", "lerp/alpha-0.500000"]
    for folder in (tmp_path / "lerp").iterdir():
        whole(folder)


def test_shards_of_the_replaced_model_go(tmp_path):
    folder = sharded(tmp_path / "model", mlp(1), {"name": "kept"})
    save(tmp_path / "b.safetensors", mlp(2))
    argv = ("merge", "model", "b.safetensors", "--strategy", "none", "-o", "model", "--in-place")
    assert rebasin(*argv, "--max-shard-size", "400B", cwd=tmp_path).code == 0
    whole(folder)
    assert rebasin(*argv, "--max-shard-size", "1GB", cwd=tmp_path).code == 0
    assert [path.name for path in folder.glob("model*")] == ["model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {"name": "kept"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("-o", "x.safetensors"), "a folder of safetensors files, and x.safetensors is a file"),
        (("--format", "pt"), "and this model is none\nhint: --format safetensors"),
        (("--max-shard-size", "0"), "a size of 0 leaves no room for anything"),
    ],
)
def test_shards_that_cannot_be_are_refused(tmp_path, argv, message):
    pair(tmp_path)
    done = rebasin(*MERGE, "--max-shard-size", "1KB", *argv, cwd=tmp_path)
    assert (done.code, message in done.err) == (2, True)
