"""Codes and scales read as weights: which scale belongs to which code."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.checkpoint.opened_files import Reading
from rebasin_cli.checkpoint.quantization.dequantized import block_sizes, spread
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_tensors
from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import InMemory

FP8 = torch.float8_e4m3fn


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
def test_every_code_gets_the_scale_of_its_block(shape, sizes):
    sizes = sizes[: len(shape)]
    scale = torch.rand([-(-n // size) for n, size in zip(shape, sizes, strict=True)])
    found = block_sizes(shape, tuple(scale.shape), known=sizes)
    assert found is not None
    step = spread(scale, shape, found).expand(shape)
    for place in torch.ones(shape).nonzero().tolist():
        at = tuple(k // size for k, size in zip(place, sizes, strict=True))
        assert step[tuple(place)] == scale[at]


@pytest.mark.parametrize(
    ("codes", "scale", "sizes"),
    [
        ((8, 6), (), (8, 6)),
        ((8, 6), (1, 1), (8, 6)),
        ((8, 6), (8,), (1, 6)),
        ((8, 6), (8, 1), (1, 6)),
        ((8, 6), (1, 6), (8, 1)),
        ((300, 200), (3, 2), (128, 128)),
        ((64, 64), (2, 1), (32, 64)),
        ((4, 8, 6), (4, 8, 1), (1, 1, 6)),
    ],
)
def test_shapes_say_how_large_blocks_are(codes, scale, sizes):
    assert block_sizes(codes, scale) == sizes


@pytest.mark.parametrize("scale", [(3,), (6,), (8, 6, 2), (3, 1), (0, 1)])
def test_scales_that_fit_no_blocks_are_not_guessed_at(scale):
    assert block_sizes((8, 6), scale) is None


def opened(folder, tensors, config=None, **how):
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "model.safetensors", tensors, metadata={}, overwrite=True)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder, reading=Reading(**how))


CODES = {
    "a.weight": torch.randn(4, 6).to(FP8),
    "a.weight_scale_inv": torch.rand(1, 1),
    "b": torch.ones(2),
}


def test_scales_are_gone_and_weights_are_floats(tmp_path):
    model = opened(tmp_path / "m", CODES, dequantise=True)
    assert model.names() == ("a.weight", "b")
    expected = CODES["a.weight"].float() * CODES["a.weight_scale_inv"]
    assert torch.equal(model.load("a.weight"), expected)
    assert model.info("a.weight").dtype == torch.float32
    assert torch.equal(model.load("b"), CODES["b"])


def test_the_dtype_is_that_of_the_config_or_of_the_scales(tmp_path):
    named = opened(tmp_path / "m", CODES, {"torch_dtype": "bfloat16"}, dequantise=True)
    assert named.info("a.weight").dtype == named.load("a.weight").dtype == torch.bfloat16
    half = {**CODES, "a.weight_scale_inv": torch.rand(1, 1).half()}
    assert opened(tmp_path / "n", half, dequantise=True).load("a.weight").dtype == torch.float16


def test_bitsandbytes_keeps_the_largest_value_of_a_row(tmp_path):
    weight = torch.randn(4, 6)
    largest = weight.abs().amax(1)
    codes = (weight / largest[:, None] * 127).round().to(torch.int8)
    model = opened(tmp_path / "m", {"a.weight": codes, "a.SCB": largest}, dequantise=True)
    assert model.names() == ("a.weight",)
    assert torch.allclose(model.load("a.weight"), weight, atol=float(largest.max()) / 127)


def test_codes_with_zero_points_are_refused_by_name(tmp_path):
    codes = torch.zeros(4, 6, dtype=torch.int8)
    tensors = {"a.weight": codes, "a.weight_scale": torch.ones(4, 1), "a.weight_zero_point": codes}
    with pytest.raises(CheckpointError, match=r"'a\.weight' cannot be dequantised"):
        opened(tmp_path / "m", tensors, dequantise=True)


def test_plain_weights_are_read_as_they_are(tmp_path):
    state = {"a.weight": torch.randn(4, 6), "a.scale": torch.ones(4), "n": torch.tensor(3)}
    model = opened(tmp_path / "m", state, dequantise=True)
    assert model.names() == tuple(InMemory(state).names())
