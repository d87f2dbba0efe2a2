"""What else people point at: files and folders of other programs, by name and by content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.errors import CheckpointError

_SAVE = "torch.save(model.state_dict(), FILE)"
_FROM_TF = "load it in transformers with from_tf=True and save_pretrained it"
_FROM_FLAX = "load it in transformers with from_flax=True and save_pretrained it"
_ZERO = (
    "python zero_to_fp32.py FOLDER model.bin puts the pieces together (the script lies in the "
    "folder); of ZeRO stage 0 to 2, mp_rank_00_model_states.pt is a model by itself"
)
_WHOLE = "a web page, not weights", "download the file itself"
_TAR = "an archive of files", "unpack it, and name what is inside"


@dataclass(frozen=True)
class Foreign:
    """What something is, and what to do with it."""

    what: str
    hint: str

    def refusal(self, where: str) -> CheckpointError:
        """Return the error to raise for it."""
        return CheckpointError(f"this is {self.what}", where=where, hint=self.hint)


# Where the bytes stand that tell, and which they are.
_MAGICS: Sequence[tuple[int, bytes, tuple[str, str]]] = (
    (0, b"version https://git-lfs", ("a Git LFS pointer, not the weights", "run `git lfs pull`")),
    (0, b"GGUF", ("a GGUF file, which is not supported", "convert it to safetensors")),
    (0, b"<!DOCTYPE", _WHOLE),
    (0, b"<!doctype", _WHOLE),
    (0, b"<html", _WHOLE),
    (0, b"\x89HDF\r\n\x1a\n", ("an HDF5 file, as of Keras or TensorFlow", _FROM_TF)),
    (4, b"TFL3", ("a TensorFlow Lite program", "name the model it was made of")),
    (0, b"\x93NUMPY", ("a numpy array", f"put arrays into a state dict, and {_SAVE}")),
    (0, b"\x1f\x8b", _TAR),
    (0, b"\xfd7zXZ", _TAR),
    (0, b"BZh", _TAR),
    (0, b"\x28\xb5\x2f\xfd", _TAR),
    (257, b"ustar", _TAR),
)
READ_AHEAD = 512

_FILES: Mapping[str, tuple[str, str]] = {
    r".*\.gguf": ("a GGUF file, which is not supported", "convert it to safetensors"),
    r".*\.onnx": ("an ONNX program", "name the PyTorch checkpoint that it was exported from"),
    r".*\.(h5|hdf5|keras|weights\.h5)": ("a file of Keras or TensorFlow", _FROM_TF),
    r".*\.msgpack": ("a file of Flax", _FROM_FLAX),
    r".*\.(ckpt.*\.(index|meta)|data-\d{5}-of-\d{5})": ("a checkpoint of TensorFlow", _FROM_TF),
    r"saved_model\.pb": ("a program of TensorFlow", _FROM_TF),
    r".*\.tflite": ("a TensorFlow Lite program", "name the model it was made of"),
    r".*\.(engine|plan|trt)": ("a TensorRT engine", "name the model it was made of"),
    r".*\.mlmodel": ("a Core ML program", "name the model it was made of"),
    r".*\.npz": ("numpy arrays", f"put them into a state dict, and {_SAVE}"),
    r".*\.distcp": (
        "a piece of a distributed checkpoint (DCP)",
        "name the folder that it lies in",
    ),
    r"(bf16_)?zero_pp_rank_.*_optim_states\.pt": ("optimizer state of DeepSpeed", _ZERO),
}

_MEMBERS: Mapping[str, tuple[str, str]] = {
    "constants.pkl": (
        "a TorchScript program, not weights",
        "save torch.jit.load(FILE).state_dict() with torch.save",
    ),
    "archive_format": (
        "a program of torch.export, not weights",
        "save torch.export.load(FILE).state_dict with torch.save",
    ),
    "model.weights.h5": ("a file of Keras", "save its weights from PyTorch"),
}


@dataclass(frozen=True)
class FolderListing:
    """The names of the files and of the folders in a folder, hidden ones included."""

    files: Sequence[str]
    folders: Sequence[str]

    def file(self, pattern: str) -> bool:
        """Return whether a file has such a name."""
        return any(re.fullmatch(pattern, name) for name in self.files)

    def folder(self, pattern: str) -> bool:
        """Return whether a folder has such a name."""
        return any(re.fullmatch(pattern, name) for name in self.folders)


_FOLDERS: Sequence[tuple[Callable[[FolderListing], bool], tuple[str, str]]] = (
    (
        lambda n: n.file(r".*\.distcp"),
        ("a distributed checkpoint (DCP) without its index", "copy the file .metadata too"),
    ),
    (
        lambda n: n.file(r"(bf16_)?zero_pp_rank_.*") or n.folder(r"global_step\d+"),
        ("a checkpoint of DeepSpeed in pieces", _ZERO),
    ),
    (
        lambda n: n.folder(r"mp_rank_\d+.*") or n.file(r"latest_checkpointed_iteration\.txt"),
        (
            "a checkpoint of Megatron, model-parallel pieces in mp_rank folders",
            "put them together with Megatron's tools/checkpoint/convert.py; the model of a single "
            "piece is mp_rank_00/model_optim_rng.pt",
        ),
    ),
    (
        lambda n: n.file(r"mp_rank_(?!00)\d+_model_states\.pt"),
        ("a checkpoint of DeepSpeed, model-parallel pieces", _ZERO),
    ),
    (
        lambda n: n.file(r"consolidated\.(?!00)\d+\.pth"),
        (
            "a model in model-parallel pieces, consolidated.NN.pth",
            "put them together first, as transformers' convert_llama_weights_to_hf.py does",
        ),
    ),
    (
        lambda n: n.file(r"adapter_config\.json") or n.file(r"adapter_model\..*"),
        (
            "an adapter (PEFT), not a model: it needs the base model of adapter_config.json",
            "`rebasin apply PERM FOLDER` moves it along with its model; other commands need it "
            "merged: PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload()"
            ".save_pretrained(OUT)",
        ),
    ),
    (
        lambda n: n.file(r"manifest\.ocdbt|_CHECKPOINT_METADATA|_METADATA"),
        (
            "a checkpoint of Orbax (JAX)",
            f"restore it in JAX, put its arrays into a state dict under PyTorch names, and {_SAVE}",
        ),
    ),
    (
        lambda n: n.file(r"saved_model\.pb") or n.file(r".*\.data-\d{5}-of-\d{5}"),
        ("a checkpoint of TensorFlow", _FROM_TF),
    ),
)


def foreign_file(name: str, start: bytes) -> Foreign | None:
    """Return what a file is, by its first READ_AHEAD bytes, else by its name."""
    for offset, magic, known in _MAGICS:
        if start[offset : offset + len(magic)] == magic:
            return Foreign(*known)
    return foreign_name(name)


def foreign_name(name: str) -> Foreign | None:
    """Return what a file of another program is, by its name alone."""
    for pattern, known in _FILES.items():
        if re.fullmatch(pattern, name.lower()):
            return Foreign(*known)
    return None


def foreign_archive(members: Sequence[str]) -> Foreign | None:
    """Return what a zip archive is, by what it holds."""
    names = {member.rpartition("/")[2] for member in members}
    for name, known in _MEMBERS.items():
        if name in names:
            return Foreign(*known)
    if any(name.endswith(".npy") for name in names):
        return Foreign("an archive of numpy arrays", f"put them into a state dict, and {_SAVE}")
    return None


def foreign_folder(names: FolderListing) -> Foreign | None:
    """Return what a folder is that holds a checkpoint in pieces, or none of a model."""
    return next((Foreign(*known) for is_it, known in _FOLDERS if is_it(names)), None)
