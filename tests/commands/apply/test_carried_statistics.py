"""`rebasin apply` on files of `rebasin statistics`: what units do follows them to the new order."""

import pytest
import torch
from safetensors.torch import load_file

import rebasin_cli as rb
from tests.commands.apply.measured import (
    CARRIED,
    FILE,
    MOVED,
    assert_alike,
    carry,
    measure,
    ok,
    record,
    run,
)
from tests.commands.apply.owned import PERM


@pytest.mark.parametrize(
    "name", ["Mlp", "Conv", "Attending", pytest.param("Experts", marks=pytest.mark.slow)]
)
def test_what_is_carried_is_what_is_measured(built, name):
    folder = built(name)
    done = carry(folder, "-o", CARRIED)
    assert done.lines == [CARRIED]
    assert "of the statistics of b.safetensors, the second of two models, moved" in done.err
    measure(folder, name, "a.safetensors", MOVED, "-o", "expected.safetensors")
    old, new, expected = (load_file(folder / n) for n in (FILE, CARRIED, "expected.safetensors"))
    apart = {n for n in expected if name == "Experts" and "experts" in n and "covariance" in n}
    assert_alike(new, {n: tensor for n, tensor in expected.items() if n not in apart})
    assert sum(not torch.equal(old[n], new[n]) for n in new) >= len(new) // 3
    said = "not known of the new order, and left out: 6 tensors" in done.err
    assert said == bool(apart) == (name == "Experts")  # whose units came from other layers


def test_the_library_says_what_carries_them(built):
    folder = built("Mlp")
    with pytest.raises(rb.RebasinError, match="rebasin apply PERM FILE --base MODEL"):
        rb.apply(folder / PERM, folder / FILE)


def test_a_key_may_be_of_the_base_alone(built):
    folder = built("Mlp")
    torch.save({"net": {"w": load_file(folder / "b.safetensors")}}, folder / "b.pt")
    carry(folder, "-o", CARRIED)
    argv = ("apply", PERM, FILE, "--base", "b.pt", "--key", "net.w", "-o", "keyed.safetensors")
    ok(folder, *argv, "--force")
    one, other = load_file(folder / "keyed.safetensors"), load_file(folder / CARRIED)
    assert all(torch.equal(one[name], other[name]) for name in other) and one.keys() == other.keys()
    assert run(folder, *argv[:-4], "--key", "net.x", "--force").code == 3


def test_the_inverse_gives_back_what_was(built):
    folder = built("Attending")
    carry(folder, "-o", CARRIED)
    back = ("apply", PERM, CARRIED, "--inverse", "--base", MOVED, "-o", "back.safetensors")
    done = ok(folder, *back, "--force", "--json")
    assert done.events[0]["kind"].startswith(f"statistics of {MOVED}")
    old, new = load_file(folder / FILE), load_file(folder / "back.safetensors")
    assert all(torch.equal(old[name], new[name]) for name in old) and old.keys() == new.keys()
    models = [record(folder / file)["tensors"] for file in (FILE, "back.safetensors", CARRIED)]
    assert models[0] == models[1] and models[0][0] == models[2][0] != models[2][1]


@pytest.mark.slow
def test_statistics_of_one_model_follow_it(built):
    folder = built("Mlp")
    measure(folder, "Mlp", "b.safetensors", "-o", "one.safetensors", "--force")
    ok(folder, "apply", PERM, "one.safetensors", "--base", "b.safetensors", "--force")
    measure(folder, "Mlp", MOVED, "-o", "expected.safetensors", "--force")
    one, other = (
        load_file(folder / n) for n in ("one.permuted.safetensors", "expected.safetensors")
    )
    assert_alike(one, other)


def test_one_pass_over_the_data_serves_align_and_renormalize(built):
    folder = built("Mlp")
    found = ("align", "a.safetensors", "b.safetensors", "--method", "activations", "--force")
    saved = ("--save-permutation", "found.safetensors", "-o", "near.safetensors")
    ok(folder, *found, "--statistics", FILE, *saved)
    ok(
        folder, "apply", "found.safetensors", FILE, "--base", "b.safetensors", "-o", CARRIED,
        "--force",
    )  # fmt: skip
    torch.save(load_file(folder / "near.safetensors"), folder / "near.pt")  # other bytes
    ok(folder, "merge", "a.safetensors", "near.pt", "--strategy", "none", "-o", "mid.safetensors")
    how = ("--method", "closed-form", "--model", "nets.py:Mlp", "--force", "-o", "x.safetensors")
    parents = ("--parents", "a.safetensors", "near.pt")
    ok(folder, "renormalize", "mid.safetensors", *how, "--statistics", CARRIED, *parents)
    data = ("--data", "nets.py:rows", *parents)
    ok(folder, "renormalize", "mid.safetensors", *how[:-1], "y.safetensors", *data)
    assert_alike(*(load_file(folder / n) for n in ("x.safetensors", "y.safetensors")))


def test_align_takes_them_for_the_permuted_model_alone(built):
    folder = built("Conv")
    carry(folder, "-o", CARRIED)
    found = (
        "align",
        "--method",
        "activations",
        "--statistics",
        CARRIED,
        "--force",
        "a.safetensors",
    )
    measured = run(folder, *found[:3], "--statistics", FILE, "a.safetensors", "b.safetensors")
    assert ok(folder, *found, MOVED, "-o", "x.safetensors").code == measured.code == 0
    one, other = (load_file(folder / n) for n in ("x.safetensors", "b.aligned.safetensors"))
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    refused = run(folder, *found, "b.safetensors")
    assert refused.code == 3
    assert "b.safetensors (sha256 " in refused.err and "is not in it" in refused.err


def test_renormalize_takes_them_for_a_merge_of_the_permuted_model_alone(built):
    folder = built("Mlp")
    carry(folder, "-o", CARRIED)
    measure(folder, "Mlp", "a.safetensors", MOVED, "-o", "expected.safetensors", "--force")
    for name, other in (("right", MOVED), ("wrong", "b.safetensors")):
        merge = ("merge", "a.safetensors", other, "--strategy", "none", "-o", f"{name}.safetensors")
        ok(folder, *merge, "--force")
    how = ("--method", "closed-form", "--model", "nets.py:Mlp", "--force", "--statistics")
    right, wrong = ("renormalize", "right.safetensors"), ("renormalize", "wrong.safetensors")
    ok(folder, *right, *how, CARRIED, "-o", "x.safetensors", "--parents", "a.safetensors", MOVED)
    ok(folder, *right, *how, "expected.safetensors", "-o", "y.safetensors")
    assert_alike(*(load_file(folder / n) for n in ("x.safetensors", "y.safetensors")))
    for said, words in {
        "tell of a model of which right.safetensors does not": (*right, *how, CARRIED),
        "are not of b.safetensors": (
            *wrong, *how, CARRIED, "--parents", "a.safetensors", "b.safetensors"
        ),
        "are not of what wrong.safetensors was made of": (*wrong, *how, "expected.safetensors"),
        "or of these in another order": (
            *right, *how, CARRIED, "--parents", MOVED, "a.safetensors"
        ),
    }.items():  # fmt: skip
        refused = run(folder, *words)
        assert refused.code == 3 and said in refused.err, refused.err
