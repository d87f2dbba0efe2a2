"""`diff --symmetry orthogonal`: what differs once both are folded and B is in A's frame."""

import json

import pytest
import torch

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import rotated, store, write_copies
from tests.symmetry.small import ONE_QUICK

DIFF = ("diff", "a.safetensors", "b.safetensors", "--spec", "my.yaml", "--symmetry", "orthogonal")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ONE_QUICK)
def test_a_rotated_copy_does_not_differ(kind, dtype, tmp_path):
    write_copies(tmp_path, kind, noise=0, dtype=dtype)
    done = rebasin(*DIFF, cwd=tmp_path)
    assert done.code == 0, done.out
    assert done.out.startswith("a.safetensors and b.safetensors are equal, to rounding, ")
    assert "both folded, B rotated: cosine " in done.out
    assert rebasin("diff", *DIFF[1:3], cwd=tmp_path).code == 1


def test_the_tensor_that_was_changed_is_the_one_that_differs(tmp_path):
    found = write_copies(tmp_path, "rotary", noise=0)
    copy = rotated(found, seed=1, noise=0)
    weight = copy["1.down.weight"].clone()
    weight[2, 3] += 1e-3 * weight.norm()
    store(tmp_path / "b.safetensors", {**copy, "1.down.weight": weight})
    done = rebasin(*DIFF, "--json", "--only", "*.down.weight", cwd=tmp_path)
    assert done.code == 2, done.err
    done = rebasin(*DIFF, "--json", cwd=tmp_path)
    (event,) = (e for e in done.events if e["event"] == "result")
    worst = max(event["changes"], key=lambda change: change["distance"])
    assert worst["name"] == "1.down.weight"
    assert worst["distance"] == pytest.approx(1e-3 * float(weight.norm()), rel=0.05)
    assert (event["symmetry"], event["equal"]) == ("orthogonal", False)
    assert event["cosine"]["before"] < 0.5
    assert event["cosine"]["after"] > 0.999


def test_a_plan_says_by_which_maps(tmp_path):
    write_copies(tmp_path, "rotary")
    plan = json.loads(rebasin(*DIFF, "-n", cwd=tmp_path).out)
    assert (plan["symmetry"], plan["maps"]["rope.0"]) == ("orthogonal", "rotary")
