"""A hint that names a model can be pasted: with it the command works."""

import json
import re
import shlex

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.files.headers import headers_of
from rebasin_cli.spec_choice.hints import model_hint, registered_models
from tests.cli.build import save
from tests.cli.harness import rebasin

TIMM = ("conv_stem.weight", "bn1.weight", "blocks.0.0.conv.weight", "conv_head.weight")
TORCHVISION = ("conv1.0.weight", "stage2.0.branch1.0.weight", "conv5.0.weight")


def hint(path, names=TIMM, head="classifier", classes=1000, config=None):
    """Return what is said of a checkpoint with some names at some place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {**dict.fromkeys(names, (4, 3, 3, 3)), f"{head}.weight": (classes, 8)}
    save(path, {name: torch.zeros(shape) for name, shape in shapes.items()})
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps(config))
    return model_hint(headers_of([open_checkpoint(path)]))


@pytest.fixture(autouse=True)
def _libraries():
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")


@pytest.mark.parametrize(
    ("path", "names", "head", "expected"),
    [
        ("lcnet_050.safetensors", TIMM, "classifier", "timm:lcnet_050"),
        ("lcnet_050.ra2_in1k.safetensors", TIMM, "classifier", "timm:lcnet_050"),
        ("lcnet_050-best.pt", TIMM, "classifier", "timm:lcnet_050"),
        ("timm/lcnet_050.ra2_in1k/model.safetensors", TIMM, "classifier", "timm:lcnet_050"),
        (
            "models--timm--lcnet_050.ra2_in1k/snapshots/0a/m.bin",
            TIMM,
            "classifier",
            "timm:lcnet_050",
        ),
        ("shufflenet_v2_x0_5-f707e7126e.pth", TORCHVISION, "fc", "torchvision:shufflenet_v2_x0_5"),
        ("shufflenet_v2_x0_5-f707e712.pth", TORCHVISION, "fc", "torchvision:shufflenet_v2_x0_5"),
        ("lcnet_050.pth", TORCHVISION, "fc", None),
        ("lcnet_0501.pth", TIMM, "classifier", None),
        ("mine.pth", TIMM, "classifier", None),
    ],
)
def test_names_of_files_tell_the_model_if_its_source_knows_the_tensors(
    tmp_path, path, names, head, expected
):
    found = hint(tmp_path / path, names, head)
    assert found == (f"it looks like {expected}: --model {expected}" if expected else "")


def test_another_number_of_classes_is_given(tmp_path):
    found = hint(tmp_path / "lcnet_050.pt", classes=7)
    assert found.endswith("--model timm:lcnet_050 --model-args '{\"num_classes\": 7}'")


def test_a_config_of_timm_counts_more_than_a_name(tmp_path):
    config = {"architecture": "lcnet_035.x", "num_classes": 5, "model_args": {"in_chans": 1}}
    found = hint(tmp_path / "ghostnet_050.pt", config=config)
    assert "--model timm:lcnet_035 --model-args" in found
    assert json.loads(shlex.split(found)[-1]) == {"in_chans": 1, "num_classes": 5}


def test_a_config_that_is_traced_anyway_is_no_hint(tmp_path):
    config = {"architectures": ["LlamaModel"], "model_type": "llama"}
    assert hint(tmp_path / "x.pt", config=config) == ""


@pytest.mark.parametrize(
    "config", [{"architecture": "no_such"}, {"model_type": "no_such"}, {"a": 1}]
)
def test_what_no_library_knows_is_no_hint(tmp_path, config):
    assert hint(tmp_path / "x.pt", config=config) == ""


def test_a_folder_with_a_blank_is_quoted(tmp_path):
    (tmp_path / "a b").mkdir()
    found = hint(tmp_path / "a b" / "x.pt", config={"model_type": "llama"})
    words = shlex.split(found.partition(": --")[2])
    assert words == ["model", f"hf:{tmp_path / 'a b'}"]


def test_all_models_of_the_libraries_are_found_in_their_sources():
    import timm
    from torchvision.models import list_models

    assert set(registered_models("timm")) == set(timm.list_models())
    quantized = {name for name in list_models() if name.startswith("quantized_")}
    assert set(registered_models("torchvision")) == set(list_models()) - quantized
    assert registered_models("no_such_library") == {}


# every hint is followed


def of_timm(folder):
    import timm

    for seed, name in enumerate(("lcnet_035.a.safetensors", "lcnet_035.b.safetensors")):
        torch.manual_seed(seed)
        model = timm.create_model("lcnet_035", num_classes=6)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / name)
        yield name


def of_timm_folders(folder):
    config = {"architecture": "lcnet_035", "num_classes": 6, "pretrained_cfg": {}}
    for name in list(of_timm(folder)):
        inside = folder / name[10]
        inside.mkdir()
        (folder / name).rename(inside / "model.safetensors")
        (inside / "config.json").write_text(json.dumps(config))
        yield inside.name


def of_torchvision(folder):
    from torchvision.models import shufflenet_v2_x0_5

    for seed in (0, 1):
        torch.manual_seed(seed)
        save(folder / f"shufflenet_v2_x0_5-0000000{seed}.pth", shufflenet_v2_x0_5().state_dict())
        yield f"shufflenet_v2_x0_5-0000000{seed}.pth"


def of_transformers(folder, *, above):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTJConfig(n_embd=16, n_layer=1, n_head=2, vocab_size=20, rotary_dim=4)
    for seed in (0, 1):
        torch.manual_seed(seed)
        home = folder / str(seed)
        inside = home / "weights" if above else home
        inside.mkdir(parents=True)
        model = transformers.GPTJForCausalLM(config)
        model.save_pretrained(home)
        (home / "model.safetensors").rename(inside / "x.safetensors")
        told = json.loads((home / "config.json").read_text())
        del told["architectures"]
        (home / "config.json").write_text(json.dumps(told))
        yield str((inside / "x.safetensors").relative_to(folder))


MAKERS = {
    "timm": of_timm,
    "folders of timm": of_timm_folders,
    "torchvision": of_torchvision,
    "transformers": lambda folder: of_transformers(folder, above=False),
    "transformers, one folder up": lambda folder: of_transformers(folder, above=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_a_hint_that_is_pasted_works(tmp_path, kind):
    models = list(MAKERS[kind](tmp_path))
    refused = rebasin("align", *models, cwd=tmp_path)
    assert refused.code == 2, refused.err
    told = re.search(r"hint: it looks like .*?(--model .*)", refused.err)
    assert told, refused.err
    done = rebasin("align", *models, *shlex.split(told[1]), cwd=tmp_path, seconds=300)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_model_that_was_mistaken_for_another_is_named(tmp_path):
    models = list(of_timm(tmp_path))
    done = rebasin("align", *models, "--model", "timm:lcnet_050", cwd=tmp_path, seconds=300)
    assert done.code == 3
    assert "its tensors are not those of timm:lcnet_050" in done.err
    arguments = """--model-args '{"num_classes": 6}'"""
    assert f"hint: it looks like timm:lcnet_035: --model timm:lcnet_035 {arguments}" in done.err
