"""Statistics that cannot be carried to another model, and what is said of them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands.apply.measured import FILE, MOVED, SPECS, metadata_of, ok, record, run
from tests.commands.apply.owned import PERM, write_permutation


def test_statistics_of_a_merge_that_moved_its_models_are_refused(built):
    folder = built("Mlp")
    merge = ("merge", "a.safetensors", "b.safetensors", "--spec", "own.yaml")
    ok(folder, *merge, "-o", "m.safetensors")
    done = run(
        folder, "renormalize", "m.safetensors", "--method", "closed-form", "--model", "nets.py:Mlp",
        "--statistics", FILE,
    )  # fmt: skip
    assert done.code == 3
    assert "whose units changed places as m.safetensors was made of them" in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "name the model that moves, as it was measured, with --base"),
        (("--base", MOVED), f"its statistics are not of {MOVED}"),
        (("--base", "b.safetensors", "--dtype", "bfloat16"), "stays one file, in float64"),
        (("--base", "b.safetensors", "-o", "x.pt"), "name it to end in .safetensors"),
        (("--base", "b.safetensors", "-o", PERM), "is one of the inputs"),
    ],
)
def test_what_cannot_be_carried_is_refused(built, argv, said):
    done = run(built("Mlp"), "apply", PERM, FILE, *argv)
    assert done.code in (2, 3) and said in done.err, done.err


@pytest.mark.parametrize("damage", ["old", "models", "steps", "group", "layer"])
def test_files_that_do_not_tell_enough_are_refused(built, damage):
    folder = built("Mlp")
    tensors, metadata = load_file(folder / FILE), metadata_of(folder / FILE)
    known, said = record(folder / FILE), "this file of statistics is damaged"
    if damage == "old":
        del known["layers"], known["tensors"]  # as an earlier version wrote it
        said = "an earlier version wrote it"
    elif damage == "models":
        known["tensors"] = ["only one"]
    elif damage == "steps":
        known["layers"]["up"][0][2] = [1 << 70]
    elif damage == "group":
        tensors["0.covariance"] = tensors["0.covariance"][:3].contiguous()
    else:
        del tensors["layer.up.mean.1"]
        said = "the statistics of layer 'up' are not complete"
    metadata["rebasin.statistics"] = json.dumps(known)
    save_file(tensors, folder / "old.safetensors", metadata=metadata)
    done = run(folder, "apply", PERM, "old.safetensors", "--base", "b.safetensors")
    assert done.code == 3 and said in done.err, done.err


def test_maps_that_mix_units_are_refused(built):
    folder = built("Mlp")
    maps = {"rebasin.symmetry": "orthogonal"}
    save_file({"m": torch.eye(2)}, folder / "maps.safetensors", metadata=maps)
    done = run(folder, "apply", "maps.safetensors", FILE, "--base", "b.safetensors")
    assert done.code == 3
    assert "its units do not follow the maps of maps.safetensors, which mix them" in done.err


def test_an_order_that_tears_the_groups_of_the_statistics_apart_is_refused(built, tmp_path):
    folder = built("Attending")
    flat = SPECS["Attending"][1].partition("groups:")[0]
    for old, new in (("heads * dot + heads * dot", "24"), ("heads * value", "values")):
        flat = flat.replace(old, new)
    torn = other_order(tmp_path, folder, flat)
    done = run(folder, "apply", torn, FILE, "--base", "b.safetensors")
    assert done.code == 3
    assert "that stay together in the statistics" in done.err


def test_an_order_of_units_that_the_statistics_hold_fixed_is_refused(built):
    folder = built("Mlp")
    metadata = metadata_of(folder / FILE)
    fixed = metadata["rebasin.spec"].replace("tensors:", "groups:\n  mid: {fixed: true}\ntensors:")
    metadata["rebasin.spec"] = fixed
    save_file(load_file(folder / FILE), folder / "half.safetensors", metadata=metadata)
    done = run(folder, "apply", PERM, "half.safetensors", "--base", "b.safetensors")
    assert done.code == 3
    assert "in a way that groups of the statistics do not" in done.err


def other_order(place, folder, tensors):
    """Return a permutation file of b under another spec."""
    (place / "b.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    (place / "torn.yaml").write_text(f"rebasin: 1\nname: torn\ntensors:\n{tensors}")
    return write_permutation(place / "b.safetensors", str(place / "torn.yaml"))
