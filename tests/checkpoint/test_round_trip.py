"""What is written is read back bit by bit, here and by the reference implementation."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rebasin_cli.checkpoint.header import DTYPES
from rebasin_cli.checkpoint.layout import layout_for
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_checkpoint, write_tensors
from rebasin_cli.errors import CheckpointError, UsageError

# The reference implementation for torch does not read this type.
REFERENCE_DTYPES = sorted(set(DTYPES) - {"F8_E8M0"})


def filled(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return a tensor of random bytes (zeros and ones for bool)."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel()
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(torch.bool)
    raw = torch.randint(0, 256, (size * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def raw(tensor: Tensor) -> bytes:
    return (
        bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
    )


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert raw(found) == raw(expected)


def every_kind() -> dict[str, Tensor]:
    kinds = {code: filled((3, 2), dtype) for code, dtype in DTYPES.items()}
    return {
        "z.flag": torch.tensor(True),
        "scalar": torch.tensor(1.5),
        **kinds,
        "a": filled((0, 4), torch.float32),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(
            lambda name: name != "__metadata__" and name.isprintable()
        ),
        st.tuples(
            st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=4).map(tuple)
        ),
        max_size=5,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_reading_returns_the_bytes_that_were_written(tmp_path_factory, kinds, metadata):
    tensors = {name: filled(shape, DTYPES[code]) for name, (code, shape) in kinds.items()}
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    write_tensors(path, tensors, metadata=metadata, overwrite=False)
    with open_checkpoint(path) as checkpoint:
        stored = {name: checkpoint.stored_name(name) for name in checkpoint.names()}
        assert list(stored.values()) == list(tensors)
        assert checkpoint.metadata == metadata
        for name in checkpoint.names():
            assert_same(checkpoint.load(name), tensors[stored[name]])


def test_every_dtype_survives_both_formats(tmp_path):
    tensors = every_kind()
    write_tensors(tmp_path / "a.safetensors", tensors, metadata={}, overwrite=False)
    with open_checkpoint(tmp_path / "a.safetensors") as first:
        infos = [first.info(name) for name in first.names()]
        layout = layout_for(first.layout, "pt")
        write_checkpoint(tmp_path / "b.pt", infos, first.load, layout, metadata={}, overwrite=False)
    with open_checkpoint(tmp_path / "b.pt") as second:
        assert second.names() == tuple(tensors)
        assert [second.info(name) for name in second.names()] == infos
        for name in second.names():
            assert_same(second.load(name), tensors[name])


@pytest.mark.parametrize("code", REFERENCE_DTYPES)
def test_the_reference_implementation_reads_what_we_write(tmp_path, code):
    tensors = {
        "one": filled((1,), torch.uint8),  # so that what follows is not aligned
        "x": filled((3, 5), DTYPES[code]),
        "scalar": filled((), DTYPES[code]),
        "empty": filled((0, 2), DTYPES[code]),
    }
    write_tensors(
        tmp_path / "x.safetensors", tensors, metadata={"b": "2", "a": "1"}, overwrite=False
    )
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same(found[name], tensor)


@pytest.mark.parametrize("code", REFERENCE_DTYPES)
def test_we_read_what_the_reference_implementation_writes(tmp_path, code):
    tensors = {"x": filled((3, 5), DTYPES[code]), "s": filled((), DTYPES[code])}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.metadata == {"format": "pt"}
        assert set(checkpoint.names()) == set(tensors)
        for name, tensor in tensors.items():
            assert_same(checkpoint.load(name), tensor)


def test_views_and_conjugates_are_written_as_they_look(tmp_path):
    base = filled((4, 6), torch.float32)
    turned = torch.complex(torch.ones(3), torch.arange(3.0)).conj()
    one = base[3:4, 5]  # a number, and a step to no other
    tensors = {"t": base.t(), "row": base[1:2, ::2], "conj": turned, "one": one}
    written = write_tensors(tmp_path / "x.safetensors", tensors, metadata={}, overwrite=False)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.load(name).nan_to_num(), tensor.nan_to_num())
    assert written.bytes < 600


def test_written_reports_the_bytes_and_digest_of_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    written = write_tensors(path, every_kind(), metadata={}, overwrite=False)
    assert written.path == path
    assert written.bytes == path.stat().st_size
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.sha256() == written.sha256


def test_a_module_prefix_is_hidden_and_comes_back(tmp_path):
    tensors = {
        "module._orig_mod.a.weight": torch.ones(2),
        "module._orig_mod.module.b": torch.zeros(3),
    }
    write_tensors(tmp_path / "x.safetensors", tensors, metadata={}, overwrite=False)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.names() == ("a.weight", "module.b")
        assert checkpoint.info("a.weight").name == "a.weight"
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        write_checkpoint(
            tmp_path / "y.safetensors",
            infos,
            checkpoint.load,
            checkpoint.layout,
            metadata={},
            overwrite=False,
        )
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_a_prefix_that_one_weight_lacks_stays(tmp_path):
    tensors = {"module.a": torch.ones(2), "scale": torch.tensor(3.0)}
    write_tensors(tmp_path / "x.safetensors", tensors, metadata={}, overwrite=False)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.names() == ("module.a", "scale")


WRITE_BOTH = """
import sys, torch
from pathlib import Path
from rebasin_cli.checkpoint.layout import layout_for
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_checkpoint, write_tensors
folder = Path(sys.argv[1])
tensors = {f"layer.{i}": torch.full((i, 3), float(i)) for i in range(9)}
metadata = {key: key * 2 for key in "qwertyuiop"}
write_tensors(folder / "x.safetensors", tensors, metadata=metadata, overwrite=False)
with open_checkpoint(folder / "x.safetensors") as x:
    infos = [x.info(name) for name in x.names()]
    layout = layout_for(x.layout, "pt")
    write_checkpoint(folder / "x.pt", infos, x.load, layout, metadata={}, overwrite=False)
"""


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setattr(sys, "argv", ["", str(here)])
    exec(WRITE_BOTH, {})
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run(
        [sys.executable, "-c", WRITE_BOTH, str(there)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
    )
    for name in ("x.safetensors", "x.pt"):
        assert (here / name).read_bytes() == (there / name).read_bytes()


def test_header_is_padded_and_metadata_sorted(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, metadata={"z": "1", "b": "2"}, overwrite=False)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert data[8:].startswith(b'{"__metadata__":{"b":"2","z":"1"},"a":{"dtype":"F32"')


def test_threads_may_load_at_once(tmp_path):
    tensors = {f"t{i}": torch.full((1000, 100), float(i)) for i in range(8)}
    write_tensors(tmp_path / "x.safetensors", tensors, metadata={}, overwrite=False)
    wrong: list[str] = []
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:

        def check(name: str) -> None:
            wrong.extend(
                name for _ in range(10) if not torch.equal(checkpoint.load(name), tensors[name])
            )

        threads = [threading.Thread(target=check, args=(name,)) for name in tensors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_dtype_that_safetensors_lacks_is_refused_before_any_tensor_is_made(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"cannot store tensor 'x' of dtype torch.complex128"):
        write_tensors(
            path, {"x": torch.ones(2, dtype=torch.complex128)}, metadata={}, overwrite=False
        )
    assert not list(tmp_path.iterdir())


def test_a_tensor_unlike_the_plan_is_a_bug(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, metadata={}, overwrite=False)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        infos = [checkpoint.info("a")]
        for wrong in (torch.ones(3), torch.ones(2, dtype=torch.float64)):
            with pytest.raises(AssertionError, match="a: planned"):
                write_checkpoint(
                    tmp_path / "y.safetensors",
                    infos,
                    {"a": wrong}.__getitem__,
                    checkpoint.layout,
                    metadata={},
                    overwrite=False,
                )


def test_an_unknown_format_lists_the_known(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, metadata={}, overwrite=False)
    with (
        open_checkpoint(tmp_path / "x.safetensors") as checkpoint,
        pytest.raises(UsageError, match=r"unknown format 'safetensor'(.|\n)*did you mean"),
    ):
        layout_for(checkpoint.layout, "safetensor")


def test_config_is_read_beside_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, metadata={}, overwrite=False)
    (tmp_path / "config.json").write_text('{"heads": 4}')
    assert open_checkpoint(path).config == {"heads": 4}
    (tmp_path / "config.json").write_text('{"heads": 4')
    assert open_checkpoint(path).config == {}
