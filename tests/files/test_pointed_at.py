"""What people point at besides a checkpoint: named for what it is, with the next step."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from rebasin_cli.checkpoint import folder
from rebasin_cli.errors import CheckpointError, MachineError
from tests.cli.build import load, mlp, near, same, save, sharded, shuffled
from tests.cli.harness import rebasin


def touched(folder: Path, *names: str) -> Path:
    """Make files that hold something, and the folders that they are in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0something")
    return folder


def written(name, data):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def archive(name, *members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for member in members:
            file.writestr(member, "x")
    return written(name, buffer.getvalue())


def tar(folder):
    with tarfile.open(folder / "run.tar", "w") as file:
        file.add(touched(folder, "x") / "x")
    return folder / "run.tar"


FILES = {
    "gguf": (written("m.gguf", b"GGUF\3\0\0\0"), "a GGUF file", "convert it to safetensors"),
    "onnx": (written("m.onnx", b"\x08\x07\x12\x07pytorch"), "an ONNX program", "exported from"),
    "h5": (written("tf_model.h5", b"\x89HDF\r\n\x1a\n...."), "an HDF5 file", "from_tf=True"),
    "h5 of another name": (written("w.bin", b"\x89HDF\r\n\x1a\n..."), "an HDF5", "from_tf"),
    "keras": (archive("m.keras", "model.weights.h5"), "Keras", ""),
    "flax": (written("flax_model.msgpack", b"\x81\xa6params"), "Flax", "from_flax=True"),
    "tf index": (written("model.ckpt.index", b"\0\0\1\2"), "TensorFlow", "from_tf"),
    "tf data": (written("model.ckpt.data-00000-of-00001", b"\1"), "TensorFlow", "from_tf"),
    "torchscript": (
        archive("m.pt", "m/constants.pkl", "m/data.pkl"),
        "TorchScript",
        "state_dict()",
    ),
    "export": (archive("m.pt2", "m/archive_format"), "a program of torch.export", "state_dict"),
    "npz": (archive("m.npz", "w.npy"), "numpy arrays", "torch.save"),
    "distcp": (
        written("__0_0.distcp", b"PK\3\4"),
        "a distributed checkpoint",
        "name the folder that it lies in",
    ),
    "deepspeed": (
        written("zero_pp_rank_0_mp_rank_00_optim_states.pt", b"PK\3\4"),
        "optimizer state of DeepSpeed",
        "zero_to_fp32.py",
    ),
    "tar": (tar, "an archive of files", "unpack it"),
    "pickled module": (
        lambda folder: _saved(folder / "m.pt", torch.nn.Linear(2, 2)),
        "this is a pickled object, not its weights",
        "torch.save(model.state_dict(), FILE)",
    ),
}


def _saved(path, value):
    torch.save(value, path)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_a_foreign_file_is_named_for_what_it_is(tmp_path, kind):
    make, what, hint = FILES[kind]
    done = rebasin("inspect", make(tmp_path), cwd=tmp_path)
    assert done.code == 3
    assert what in done.err
    assert hint in done.err
    assert "Traceback" not in done.err


FOLDERS = {
    "dcp": (("__0_0.distcp",), "distributed checkpoint (DCP)", "copy the file .metadata too"),
    "deepspeed": (
        ("latest", "zero_to_fp32.py", "global_step10/mp_rank_00_model_states.pt"),
        "DeepSpeed in pieces",
        "zero_to_fp32.py",
    ),
    "deepspeed inside": (
        ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "DeepSpeed in pieces",
        "mp_rank_00_model_states.pt",
    ),
    "megatron": (("mp_rank_00/model_optim_rng.pt", "mp_rank_01/x.pt"), "Megatron", "mp_rank_00"),
    "consolidated": (
        ("consolidated.00.pth", "consolidated.01.pth", "params.json"),
        "model-parallel pieces, consolidated.NN.pth",
        "put them together",
    ),
    "orbax": (("_CHECKPOINT_METADATA", "default/manifest.ocdbt"), "Orbax", "restore it in JAX"),
    "tf": (("checkpoint", "m.ckpt.index", "m.ckpt.data-00000-of-00001"), "TensorFlow", "from_tf"),
    "flax": (("config.json", "flax_model.msgpack"), "a file of Flax", "from_flax"),
    "adapter": (
        ("adapter_config.json", "adapter_model.safetensors"),
        "an adapter (PEFT), not a model: it needs the base model",
        "merge_and_unload",
    ),
    "hub cache": (
        ("blobs/abc", "refs/main", "snapshots/f00/model.safetensors"),
        "it is the cache of a model from the hub",
        "name one of them",
    ),
    "hub": (("models--a--b/snapshots/f00/model.safetensors",), "but below it", "name one of them"),
    "trainer": (
        ("checkpoint-20/model.safetensors", "checkpoint-100/model.safetensors"),
        "but below it",
        "name one of them",
    ),
    "pipeline": (
        ("model_index.json", "unet/diffusion_pytorch_model.safetensors", "vae/model.safetensors"),
        "a pipeline of diffusers",
        "name one of them",
    ),
    "nothing": (("readme.md",), "no weights in this folder", ""),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_foreign_folder_is_named_for_what_it_is(tmp_path, kind):
    names, what, hint = FOLDERS[kind]
    touched(tmp_path / "x", *names)
    done = rebasin("inspect", "x", cwd=tmp_path)
    assert done.code == 3
    assert what in done.err
    assert hint in done.err


def test_the_folders_below_are_listed_to_paste_the_last_step_last(tmp_path):
    for step in (20, 100, 3):
        (tmp_path / f"run/checkpoint-{step}").mkdir(parents=True)
        save(tmp_path / f"run/checkpoint-{step}/model.safetensors", mlp(step))
    done = rebasin("inspect", "run", cwd=tmp_path)
    listed = [line.strip() for line in done.err.splitlines() if line.startswith("  ")]
    assert listed == [f"run/checkpoint-{step}" for step in (3, 20, 100)]
    assert all(rebasin("inspect", path, cwd=tmp_path).code == 0 for path in listed)


def test_a_folder_below_that_may_not_be_looked_into_is_passed_over(tmp_path, monkeypatch):
    names_in = folder.names_in

    def refusing(path):
        if path.name == "locked":
            raise MachineError("cannot read: Permission denied", where=str(path))
        return names_in(path)

    monkeypatch.setattr(folder, "names_in", refusing)
    (tmp_path / "locked").mkdir()
    with pytest.raises(CheckpointError, match="no weights in this folder"):
        folder.find_weights(tmp_path)


@pytest.mark.parametrize("beside", ["global_step10/x.pt", "tf_model.h5", "consolidated.01.pth"])
def test_a_usual_name_counts_whatever_lies_beside_it(tmp_path, beside):
    touched(tmp_path / "x", beside)
    save(tmp_path / "x/model.safetensors", mlp(0))
    assert rebasin("inspect", "x", cwd=tmp_path).code == 0


@pytest.mark.parametrize("name", ["best.pth.tar", "m.model", "m.tar", "weights", "m.pkl"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_is_known_by_its_content(tmp_path, name, zipped):
    torch.save({"state_dict": mlp(0)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    done = rebasin("inspect", name, cwd=tmp_path)
    assert done.code == 0, done.err


def test_shards_without_an_index_are_one_model_and_stay_so(tmp_path):
    state = mlp(0)
    sharded(tmp_path / "a", state, {})
    sharded(tmp_path / "b", near(shuffled(state), 1), {})
    for name in "ab":
        (tmp_path / name / "model.safetensors.index.json").unlink()
        touched(tmp_path / name, "training_args.bin")
    done = rebasin("align", "a", "b", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert shards == [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    assert rebasin("verify", "b", "out", cwd=tmp_path).code == 0


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path / "a", mlp(0), {})
    for name in ("model-00002-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / "a" / name).unlink()
        done = rebasin("inspect", "a", cwd=tmp_path)
        assert done.code == 3
        lacking = "1 of 2 shards are missing\nmodel-00002-of-00002.safetensors\nhint: download"
        assert lacking in done.err


def test_a_tensor_in_two_shards_without_an_index_is_refused(tmp_path):
    for k in (1, 2):
        save(tmp_path / "a" / f"model-{k}-of-2.safetensors", mlp(k))
    done = rebasin("inspect", "a", cwd=tmp_path)
    assert done.code == 3
    assert "tensor '0.weight' is in 2 of the shards" in done.err


def test_key_counts_where_it_names_something(tmp_path):
    state = mlp(0)
    torch.save(state, tmp_path / "a.pt")
    save(tmp_path / "c.safetensors", near(state, 3))
    torch.save({"b": {"c": near(shuffled(state), 1)}}, tmp_path / "b.pt")
    done = rebasin("align", "a.pt", "b.pt", "c.safetensors", "--key", "b.c", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "warning: a.pt has no part 'b.c': read as without --key" in done.err
    assert "warning: c" not in done.err
    found = torch.load(tmp_path / "b.aligned.pt", weights_only=True)
    assert set(found["b"]["c"]) == set(state)
    wrong = rebasin("align", "a.pt", "b.pt", "--key", "b.d", cwd=tmp_path)
    assert wrong.code == 3
    assert "did you mean 'b.c'?" in wrong.err


def test_extra_state_passes_through_and_is_named_with_v(tmp_path):
    state = mlp(0)
    extra = {"0._extra_state": {"amax": torch.tensor(1.0)}, "2._extra_state": torch.ones(3)}
    torch.save({"model": {**state, **extra}}, tmp_path / "a.pt")
    moved = near(shuffled(state), 1)
    torch.save({"model": {**moved, "0._extra_state": b"bytes"}}, tmp_path / "b.pt")
    done = rebasin("align", "a.pt", "b.pt", "-v", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "a.pt: stays as it is: 0._extra_state, 2._extra_state" in done.err
    found = torch.load(tmp_path / "b.aligned.pt", weights_only=True)["model"]
    assert found["0._extra_state"] == b"bytes"
    quiet = rebasin("align", "b.pt", "a.pt", cwd=tmp_path)
    assert quiet.code == 0, quiet.err
    assert "stays as it is" not in quiet.err
    found = torch.load(tmp_path / "a.aligned.pt", weights_only=True)["model"]
    assert found["0._extra_state"]["amax"] == 1
    assert torch.equal(found["2._extra_state"], torch.ones(3))


def test_what_is_ignored_is_told_and_not_in_the_output(tmp_path):
    state = mlp(0)
    save(tmp_path / "a.pt", state)
    hyper = {"net": torch.nn.ReLU(), "lr": 0.1}
    torch.save({"state_dict": near(shuffled(state), 1), "hyper": hyper}, tmp_path / "b.ckpt")
    refused = rebasin("align", "a.pt", "b.ckpt", cwd=tmp_path)
    assert refused.code == 3
    assert "it asks for torch.nn.modules.activation.ReLU" in refused.err
    assert "--ignore-classes reads the rest of it" in refused.err
    done = rebasin("align", "a.pt", "b.ckpt", "--ignore-classes", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "b.ckpt: left out hyper.net, objects of torch.nn.modules.activation.ReLU" in done.err
    assert torch.load(tmp_path / "b.aligned.ckpt", weights_only=True)["hyper"] == {"lr": 0.1}


def test_an_index_in_a_folder_with_other_things_is_read(tmp_path):
    sharded(tmp_path / "a", mlp(0), {"a": 1})
    touched(tmp_path / "a", "global_step1/x.pt", "optimizer.pt")
    assert rebasin("inspect", "a", cwd=tmp_path).code == 0
    shutil.rmtree(tmp_path / "a/global_step1")
    assert json.loads((tmp_path / "a/config.json").read_text()) == {"a": 1}


def test_a_file_that_may_not_be_read_is_the_machines_fault(tmp_path):
    path = save(tmp_path / "a.safetensors", mlp(0))
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        done = rebasin("inspect", "a.safetensors", cwd=tmp_path)
        assert done.code == 4
        assert "cannot read: Permission denied" in done.err
    else:
        pytest.skip("this user may read everything")
    finally:
        path.chmod(0o644)
    assert same(load(path), mlp(0))
