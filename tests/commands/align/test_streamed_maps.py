"""Orthogonal maps of models that do not fit into memory, through the real door."""

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import model_of, store, write_copies
from tests.symmetry.small import NETS

MAPS = ("a.safetensors", "b.safetensors", "--spec", "my.yaml", "--symmetry", "orthogonal")
LLAMA = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LITTLE = ("--max-memory", "50KB")  # less than both take in float64, more than their blocks


@pytest.mark.parametrize("kind", NETS)
def test_what_is_streamed_is_what_is_found_in_memory(kind, tmp_path):
    write_copies(tmp_path, kind)
    held = rebasin("align", *MAPS, "-f", "--json", cwd=tmp_path)
    expected = load_file(tmp_path / "b.aligned.safetensors")
    streamed = rebasin("align", *MAPS, *LITTLE, "-f", "--json", "-v", cwd=tmp_path)
    assert streamed.code == 0, streamed.err
    found = load_file(tmp_path / "b.aligned.safetensors")
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-9), name
    one, two = (done.events[1] for done in (held, streamed))
    assert one["sweeps"] == two["sweeps"]
    assert one["cosine"]["after"] == pytest.approx(two["cosine"]["after"], rel=1e-12)
    assert two["null"] is None
    assert "unrelated weights" not in streamed.err


def test_streaming_gives_the_same_bytes_twice(tmp_path):
    write_copies(tmp_path, "rotary", dtype=torch.bfloat16)
    digests = [
        rebasin("align", *MAPS, *LITTLE, "-f", "--json", cwd=tmp_path).events[1]["sha256"]
        for _ in range(2)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_copy_is_verified_with_little_memory(dtype, tmp_path):
    write_copies(tmp_path, "rotary", noise=0, dtype=dtype)
    done = rebasin("verify", *MAPS, *LITTLE, cwd=tmp_path)
    assert done.code == 0, done.out
    assert done.out.startswith("b.safetensors is a.safetensors with its units rotated")


def test_merge_streams_too(tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("merge", *MAPS, *LITTLE, "-o", "soup.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines == ["soup.safetensors"]


def test_models_that_do_not_fit_are_told_before_any_work(tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("align", *MAPS, "--max-memory", "20KB", cwd=tmp_path)
    assert done.code == 4
    assert "orthogonal maps take the blocks of one layer" in done.err
    assert "raise --max-memory" in done.err
    assert not (tmp_path / "a.folded.safetensors").exists()


@pytest.mark.parametrize(("dtype", "code"), [(torch.float32, 4), (torch.bfloat16, 0)])
def test_models_of_16_bits_take_less_memory(dtype, code, tmp_path):
    write_copies(tmp_path, "rotary", dtype=dtype)
    assert rebasin("align", *MAPS, "--max-memory", "38KB", "--dry-run", cwd=tmp_path).code == code


WIDE = """\
rebasin: 1
transposed: [embed.weight]
groups:
  stream: {maps: orthogonal}
tensors:
  embed.weight: [~, stream]
  norm.weight: [stream]
  head.weight: [~, stream]
norms:
  norm.weight: {kind: rms, readers: [head.weight]}
"""


def test_models_that_fit_whole_may_take_less_than_their_blocks(tmp_path):
    """Both take 22 KB; similarities of 40 units are 13 KB, and four such matrices are counted."""
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        state = {f"{n}.weight": torch.randn(11, 40, generator=generator) for n in ("embed", "head")}
        store(tmp_path / f"{name}.safetensors", state | {"norm.weight": torch.ones(40)})
    (tmp_path / "my.yaml").write_text(WIDE)
    done = rebasin("align", *MAPS, "--max-memory", "30KB", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--learn", "3", "--data", "user.py:batches"), "--learn"),
        (("--method", "activations", "--data", "user.py:batches"), "--method activations"),
        (("--symmetry", "auto"), "--symmetry auto"),
    ],
)
def test_what_holds_both_models_says_so(options, named, tmp_path):
    write_copies(tmp_path, "rotary")
    given = (*MAPS, "--model", model_of("rotary")) if "--data" in options else MAPS
    done = rebasin("align", *given, *options, *LITTLE, cwd=tmp_path)
    assert done.code == 4
    assert f"{named} takes both models in float64" in done.err
    assert not (tmp_path / "a.folded.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "is_run"), [((), True), (LITTLE, False), ((*LITTLE, "--check"), True)]
)
def test_a_model_is_run_where_it_fits_or_where_that_is_asked_for(options, is_run, tmp_path):
    transformers = pytest.importorskip("transformers")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
        model.save_pretrained(tmp_path / name)
    done = rebasin("align", "a", "b", "--symmetry", "orthogonal", *options, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert [e["output_difference"] is not None for e in done.events[:2]] == [is_run] * 2
