"""`verify --symmetry orthogonal`: is B a rotated copy of A, to the rounding of its dtype?"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import model_of, rotated, store, write_copies
from tests.symmetry.small import ONE_QUICK, case

PAIR = ("a.safetensors", "b.safetensors")
VERIFY = ("verify", *PAIR, "--spec", "my.yaml", "--symmetry", "orthogonal")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ONE_QUICK)
def test_a_rotated_copy_is_one_in_every_dtype(kind, dtype, tmp_path):
    found = write_copies(tmp_path, kind, noise=0, dtype=dtype)
    store(tmp_path / "a.safetensors", found.state)
    done = rebasin(*VERIFY, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (event,) = (e for e in done.events if e["event"] == "result")
    assert event["rotated"] is True
    name = str(dtype).removeprefix("torch.")
    assert (event["dtype"], event["different"]) == (name, [])
    assert event["max_difference"] <= event["rounding"] <= max(torch.finfo(dtype).eps, 1e-10)


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_two_copies_of_low_precision_are_copies_of_one_another(kind, tmp_path):
    write_copies(tmp_path, kind, noise=0, dtype=torch.bfloat16)
    argv = ("verify", "b.safetensors", "c.safetensors", *VERIFY[3:])
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 0, done.out
    said = "c.safetensors is b.safetensors with its units rotated, to the rounding of bfloat16: "
    assert done.out.startswith(said)


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_what_is_folded_is_a_copy_of_what_is_not(kind, tmp_path):
    write_copies(tmp_path, kind, dtype=torch.float32)
    rebasin("fold", "a.safetensors", "--spec", "my.yaml", cwd=tmp_path)
    for pair in (("a.safetensors", "a.folded.safetensors"), ("a.folded.safetensors", PAIR[0])):
        assert rebasin("verify", *pair, *VERIFY[3:], cwd=tmp_path).code == 0


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_other_weights_are_none(kind, tmp_path):
    write_copies(tmp_path, kind)
    store(tmp_path / "b.safetensors", case(kind, seed=5).state)
    done = rebasin(*VERIFY, cwd=tmp_path)
    assert done.code == 1
    assert done.out.startswith("b.safetensors is not a rotated copy of a.safetensors: ")
    assert "tensors differ under the best maps found, by up to " in done.out
    assert "  differs: " in done.err


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float64, 1e-8), (torch.float32, 1e-5), (torch.bfloat16, 0.1)]
)
def test_one_weight_that_is_more_than_rounding_off_is_found(dtype, share, tmp_path):
    found = write_copies(tmp_path, "rotary", noise=0)
    copy = rotated(found, seed=1, noise=0)
    weight = copy["1.down.weight"].clone()
    weight[2, 3] += share * weight.norm()
    store(tmp_path / "b.safetensors", {**copy, "1.down.weight": weight}, dtype)
    done = rebasin(*VERIFY, cwd=tmp_path)
    assert done.code == 1, done.out
    assert done.err.splitlines()[1].startswith("  differs: 1.down.weight, by ")


def test_maps_that_are_saved_bring_b_next_to_the_folded_a(tmp_path):
    write_copies(tmp_path, "layer norm", noise=0)
    done = rebasin(*VERIFY, "--save-permutation", "m.safetensors", cwd=tmp_path)
    assert done.code == 0
    rebasin("apply", "m.safetensors", "b.safetensors", cwd=tmp_path)
    rebasin("fold", "a.safetensors", "--spec", "my.yaml", cwd=tmp_path)
    moved, folded = (load_file(tmp_path / f"{n}.safetensors") for n in ("b.rotated", "a.folded"))
    assert all(torch.allclose(moved[n], folded[n], rtol=0, atol=1e-12) for n in folded)


@pytest.mark.slow
def test_a_model_that_is_named_is_run_too(tmp_path):
    found = write_copies(tmp_path, "rotary", noise=0)
    with (tmp_path / "user.py").open("a") as user:
        user.write("def tokens(): return next(batches())\n")
    model = ("--model", model_of("rotary"), "--input", "user.py:tokens")
    done = rebasin(*VERIFY, *model, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "the same function: outputs differ by" in done.err
    store(tmp_path / "b.safetensors", rotated(found, seed=1, noise=0), torch.bfloat16)
    rounded = rebasin(*VERIFY, *model, cwd=tmp_path)
    assert rounded.code == 0
    assert "  outputs differ by " in rounded.err
    assert "not the same function" not in rounded.err
    twice = {n: t * 2 if n.endswith("q.weight") else t for n, t in found.state.items()}
    twice |= {n: t / 2 for n, t in found.state.items() if n.endswith("k.weight")}
    store(tmp_path / "b.safetensors", twice)
    other = rebasin(*VERIFY, *model, cwd=tmp_path)
    assert other.code == 0, other.err
    assert "computes what a.safetensors does, but is not a rotated copy of it" in other.out


def test_a_plan_says_by_which_maps(tmp_path):
    write_copies(tmp_path, "rotary")
    plan = json.loads(rebasin(*VERIFY, "-n", cwd=tmp_path).out)
    assert (plan["symmetry"], plan["maps"]["rope.0"]) == ("orthogonal", "rotary")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--restarts", "3"), "--start, --restarts and --loss are of permutations"),
        (("--symmetry", "rotation"), "no value of --symmetry is called 'rotation'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin(*VERIFY, *options, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_model_that_is_not_finite_is_named(tmp_path):
    found = write_copies(tmp_path, "rotary")
    broken = found.state | {"0.k.weight": found.state["0.k.weight"] * torch.nan}
    store(tmp_path / "b.safetensors", broken)
    done = rebasin(*VERIFY, cwd=tmp_path)
    assert done.code == 3
    assert "b.safetensors: tensor '0.k.weight' holds NaN or infinity" in done.err


SHARED = Path(__file__).parents[4] / "shared" / "checkpoints"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["char_gpt", "vit_small"])
def test_trained_models_are_told_from_rotated_copies(name, dtype, tmp_path):
    a, b = (SHARED / f"{name}_s{seed}.safetensors" for seed in (0, 1))
    heads = Selection(sizes={"heads": 4})
    model = open_checkpoint(a)
    plan = plan_folding(choose_spec([model], heads), [model])
    maps = draw_maps(plan.moving.groups.values(), plan.classes, torch.Generator().manual_seed(3))
    copy = Carried(FoldedNorms(model, plan), plan.moving.tensors, maps)
    store(tmp_path / "copy.safetensors", {n: copy.load(n) for n in copy.names()}, dtype)
    options = ("--set", "heads=4", "--symmetry", "orthogonal")
    assert rebasin("verify", a, "copy.safetensors", *options, cwd=tmp_path).code == 0
    assert rebasin("verify", a, b, *options, cwd=tmp_path).code == 1
