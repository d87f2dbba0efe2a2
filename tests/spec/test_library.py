"""Bundled specs, spec files, and drafts."""

import errno
import os

import pytest
import torch

from rebasin_cli.errors import RebasinError, SpecError, UsageError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.compression.draft import draft
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.library import bundled_names, load_spec
from tests.models import EXAMPLES
from tests.models.mlp import LayeredMlp, sequential_mlp
from tests.spec.shapes import group_shapes, infos


def headers(model):
    return infos({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_spec_survives_its_canonical_text(name):
    spec = load_spec(name)
    assert parse(dump(spec)) == spec
    assert spec.name == name
    assert spec.source == f"{name}.yaml"
    assert spec.description


def test_the_mlp_spec_covers_both_ways_to_name_layers():
    sequential = bind(load_spec("mlp"), headers(sequential_mlp()))
    assert group_shapes(sequential) == {"hidden.0": (8,), "hidden.2": (11,), "hidden.4": (9,)}
    layered = bind(load_spec("mlp"), headers(LayeredMlp()))
    assert group_shapes(layered) == {"hidden.0": (8,), "hidden.1": (11,), "hidden.2": (9,)}
    assert sequential.untouched == layered.untouched == ()


def test_the_mlp_spec_does_not_fit_other_networks():
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "1.weight": (4,), "2.weight": (2, 4)}
    with pytest.raises(SpecError, match=r"'1\.weight' has 1 axes"):
        bind(load_spec("mlp"), infos(shapes))


def llama(**changed):
    """Return the headers of a llama of 4 heads of keys and 12 of queries, with more tensors."""
    state = EXAMPLES["llama"].model().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    attention = {f"model.layers.{i}.self_attn.{k}": v for i in (0, 1) for k, v in changed.items()}
    return infos(shapes | {name.replace("__", "."): shape for name, shape in attention.items()})


def test_the_llama_spec_takes_norms_over_dims_and_stored_frequencies():
    shapes = llama(q_norm__weight=(6,), k_norm__weight=(6,), rotary_emb__inv_freq=(3,))
    bound = bind(load_spec("llama"), shapes, sizes={"kv": 4})
    assert bound.untouched == ()
    assert bound.groups["rope.1"].fixed


@pytest.mark.parametrize("shape", [(72,), (12, 6)], ids=["as in OLMo 2", "as in Command R+"])
def test_the_llama_spec_refuses_norms_over_heads(shape):
    with pytest.raises(SpecError, match=r"group 'rope\.0' has two sizes"):
        bind(load_spec("llama"), llama(q_norm__weight=shape), sizes={"kv": 4})


def test_a_spec_is_read_from_a_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("rebasin: 1\ntensors: {é: [x]}\n", "utf-8")
    spec = load_spec(str(path))
    assert list(spec.tensors) == ["é"]
    assert spec.source == str(path)


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(UsageError, match=r"no bundled spec 'mpl'(.|\n)*did you mean 'mlp'\?"):
        load_spec("mpl")
    with pytest.raises(UsageError, match=r"bundled specs: .*mlp"):
        load_spec("something-else-entirely")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(RebasinError, match=r"gone\.yaml: the spec cannot be read: No such file"):
        load_spec(str(tmp_path / "gone.yaml"))
    with pytest.raises(RebasinError, match=f"the spec cannot be read: {os.strerror(errno.EISDIR)}"):
        load_spec(str(tmp_path))
    path = tmp_path / "latin.yaml"
    path.write_bytes("rebasin: 1\nname: ä\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin\.yaml:2:7: the spec is not UTF-8 text"):
        load_spec(str(path))


DRAFTED = {
    "stem.weight": (8, 1, 3, 3),
    "stem.running_mean": (8,),
    "layers.0.fc1.weight": (8, 8),
    "layers.1.fc1.weight": (8, 8),
    "layers.0.fc2.weight": (4, 8),
    "layers.1.fc2.weight": (5, 8),
    "steps": (),
}


def test_a_draft_lists_every_tensor_and_binds():
    shapes = infos(DRAFTED, {"steps": torch.int64})
    spec = parse(draft(shapes))
    assert list(spec.tensors) == [
        "stem.weight",
        "stem.running_mean",
        "layers.{i}.fc1.weight",
        "layers.0.fc2.weight",
        "layers.1.fc2.weight",
        "steps",
    ]
    assert spec.buffers == ("*.running_mean",)
    assert bind(spec, shapes).untouched == ()


def test_a_draft_says_the_shapes():
    text = draft(infos(DRAFTED, {"steps": torch.int64}))
    lines = text.splitlines()
    assert "  layers.{i}.fc1.weight: [~, ~]  # 8x8 float32, 2 of them" in lines
    assert "  stem.weight: [~, ~, ~, ~]      # 8x1x3x3 float32" in lines
    assert "  steps: []                      # scalar int64" in lines
    assert text.startswith("# A start: every axis is `~`")


def test_a_draft_of_names_that_patterns_cannot_say():
    spec = parse(draft(infos({"a[0]": (3,), "b c": (3,), "null": (2,), "-": (1,), "é: 1": (2,)})))
    assert list(spec.tensors) == ["b c", "null", "-", "é: 1"]
    with pytest.raises(SpecError, match="no tensor that a spec could name"):
        draft(infos({"a*": (3,)}))
