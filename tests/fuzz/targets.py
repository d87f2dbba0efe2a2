"""What reads a stranger's bytes: one function for each format, and inputs to start from.

A function gets the bytes of a file, and a folder of its own for files. It may return, or raise a
RebasinError: anything else, a crash, a hang, or a file outside the folder, is a fault.
"""

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from rebasin_cli.activations.statistics_file import load_units, read_statistics
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.commands.barrier.journal import Journal
from rebasin_cli.errors import RebasinError
from rebasin_cli.files.saved.permutation_file import read_permutations
from rebasin_cli.folding.map_file import read_maps
from rebasin_cli.options.model_paths import parse_paths
from rebasin_cli.resuming.finished import read_finished
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import TensorInfo

SPEC = """\
rebasin: 1
sizes: {kv: config.heads}
groups:
  kv.{i}: {size: kv}
  vo.{i}: {per: kv.{i}, maps: orthogonal}
tensors:
  embed.weight: [~, stream]
  v.{i}.weight: ["kv.{i} * vo.{i}", stream]
  o.{i}.weight: [stream, "kv.{i} * vo.{i}"]
  up.{i}.weight: ["hidden.{i} + hidden.{i}", stream]
  down.{i}.{weight,extra}?: [stream, hidden.{i}]
  norm.{i}.weight: [stream]
norms: {norm.{i}.weight: {kind: rms, readers: ["{v,up}.{i}.weight"]}}
"""
LAYERS = {
    "embed.weight": torch.ones(7, 4),
    "norm.0.weight": torch.ones(4),
    "v.0.weight": torch.ones(4, 4),
    "o.0.weight": torch.ones(4, 4),
    "up.0.weight": torch.ones(6, 4),
    "down.0.weight": torch.ones(4, 3),
}
HIDDEN = {"up.weight": torch.ones(6, 4), "down.weight": torch.ones(4, 3)}
_SHARD = "model-00001-of-00001.safetensors"
MODEL = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(1, 2)}
PLAIN = "rebasin: 1\ntensors: {a.weight: [h, ~], b.weight: [~, h]}\n"

Target = Callable[[bytes, Path], None]


def read_tensors(path: Path) -> None:
    with open_checkpoint(path) as file:
        for name in file.names():
            file.load(name)


def safetensors_file(data: bytes, folder: Path) -> None:
    read_tensors(_written(folder / "a.safetensors", data))


def torch_file(data: bytes, folder: Path) -> None:
    read_tensors(_written(folder / "a.pt", data))


def index_of_shards(data: bytes, folder: Path) -> None:
    _written(folder / _SHARD, save(MODEL))
    _written(folder / "model.safetensors.index.json", data)
    read_tensors(folder)


def index_of_pieces(data: bytes, folder: Path) -> None:
    _written(folder / "__0_0.distcp", bytes(2000))
    _written(folder / ".metadata", data)
    with open_checkpoint(folder) as file:
        file.names()


def configuration(data: bytes, folder: Path) -> None:
    _written(folder / "model.safetensors", save(MODEL))
    _written(folder / "config.json", data)
    with open_checkpoint(folder) as file:
        _ = file.config


def spec_text(data: bytes, folder: Path) -> None:
    _bind(data, folder, LAYERS)


def axis_expression(data: bytes, folder: Path) -> None:
    text = json.dumps(data.decode(errors="replace"))
    lines = f"rebasin: 1\ntensors: {{up.weight: [{text}, ~], down.weight: [~, h]}}\n"
    _bind(lines.encode(), folder, HIDDEN)


def _bind(text: bytes, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    spec = load_spec(str(_written(folder / "a.yaml", text)))
    infos = {name: TensorInfo(name, tuple(t.shape), t.dtype) for name, t in tensors.items()}
    bind(spec, infos, config={"heads": 2})


def permutation_file(data: bytes, folder: Path) -> None:
    path = _written(folder / "p.safetensors", data)
    with open_checkpoint(_written(folder / "m.safetensors", save(MODEL))) as model:
        for read in (read_permutations, read_maps):
            try:
                read(path, model)
            except RebasinError:
                continue


def words_of_permutations(data: bytes, folder: Path) -> None:
    """Put the bytes into each field of the metadata of a good file."""
    text = data.decode(errors="replace")
    for key in good_permutations():
        if key != "rebasin.spec":
            words = {**good_permutations(), key: text}
            permutation_file(save({"h": torch.tensor([1, 0])}, words), folder)


def statistics_file(data: bytes, folder: Path) -> None:
    words = {"rebasin.statistics": data.decode(errors="replace"), "rebasin.spec": PLAIN}
    tensors = {f"0.{name}": torch.ones(2, dtype=torch.float64) for name in ("mean.a", "variance.a")}
    load_units(read_statistics(_written(folder / "s.safetensors", save(tensors, words))))


def journal_of_points(data: bytes, folder: Path) -> None:
    Journal(_written(folder / "points.ndjson", data))


def list_of_results(data: bytes, folder: Path) -> None:
    read_finished(_written(folder / "list.ndjson", data), "lerp")


def paths_on_stdin(data: bytes, folder: Path) -> None:
    ends_in_nul = b"\0" in data
    with suppress(RebasinError):  # told to end otherwise than they do
        parse_paths(data, null=not ends_in_nul)
    parse_paths(data, null=ends_in_nul)


def good_permutations() -> dict[str, str]:
    """Return the metadata of a file of permutations for the model."""
    return {
        "rebasin.spec": PLAIN,
        "rebasin.sizes": '{"h": 2}',
        "rebasin.config": '{"layers": 1}',
        "rebasin.untouched": '{"c": [2]}',
    }


def _metadata() -> bytes:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is only one process
        save_distributed({"model": MODEL}, checkpoint_id=folder)
        return Path(folder, ".metadata").read_bytes()


def _zipped(value: object, *, new: bool = True) -> bytes:
    file = BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


_POINT = {
    "schema": "rebasin/1",
    "event": "result",
    "command": "barrier",
    "curve": "naive",
    "weights": [0.5, 0.5],
    "scores": {"loss": 1.5},
    "seconds": 0.25,
    "of": {"data": "x"},
}
_RECORD = {
    "version": 1,
    "sha256": ["0" * 64],
    "moment": "covariance",
    "places": [{"dims": [["h", 2]], "place": "b", "count": 3}],
}
_PATHS = b'a.pt\n{"schema":"rebasin/1","event":"result","path":"b.pt"}\n{"event":"plan"}\n'
_LISTED = (
    b'{"schema":"rebasin/1","event":"begun","command":"lerp","places":["x.pt"],"of":{"seed":0}}\n'
    b'{"schema":"rebasin/1","event":"step","command":"lerp","number":0,"found":{}}\n'
    b'{"schema":"rebasin/1","event":"finished","command":"lerp","place":"x.pt",'
    b'"files":{"x.pt":"0"},"result":{},"text":null}\n'
)

# Each format: what reads it, and good inputs, which mutations start from.
TARGETS: dict[str, tuple[Target, list[bytes]]] = {
    "safetensors": (safetensors_file, [save(MODEL), save(MODEL, {"format": "pt"})]),
    "torch": (
        torch_file,
        [_zipped(MODEL), _zipped({"state_dict": MODEL, "epoch": 3}), _zipped(MODEL, new=False)],
    ),
    "index": (
        index_of_shards,
        [json.dumps({"metadata": {}, "weight_map": dict.fromkeys(MODEL, _SHARD)}).encode()],
    ),
    "pieces": (index_of_pieces, [_metadata()]),
    "config": (configuration, [b'{"model_type": "llama", "num_hidden_layers": 2}']),
    "spec": (spec_text, [SPEC.encode()]),
    "expression": (axis_expression, [b"2 * h", b"h + h", b"(h + 3) * 1", b"h + ~"]),
    "permutation": (permutation_file, [save({"h": torch.tensor([1, 0])}, good_permutations())]),
    "words": (
        words_of_permutations,
        [b'{"h": 2}', b'{"c": [2]}', b'{"maps": {"h": "orthogonal"}}'],
    ),
    "statistics": (statistics_file, [json.dumps(_RECORD).encode()]),
    "journal": (journal_of_points, [json.dumps(_POINT, separators=(",", ":")).encode() + b"\n"]),
    "list": (list_of_results, [_LISTED]),
    "stdin": (paths_on_stdin, [_PATHS, _PATHS.decode().encode("utf-16"), b"a\0b\0"]),
}


def feed(name: str, data: bytes, folder: Path) -> None:
    """Read the bytes as the format of this name. Raises whatever is a fault, and nothing else."""
    target, _ = TARGETS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target(data, folder)
        except RebasinError:
            return
