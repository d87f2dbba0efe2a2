"""`merge --method zipit|cca`: hidden units merged by linear maps found on data."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.cli.build import load, mlp, save, shuffled
from tests.cli.harness import rebasin

NET = """
import torch
from torch import nn

WIDTHS = (6, 8, 11, 9, 4)


def layers():
    return [nn.Linear(i, o) for i, o in zip(WIDTHS[:-1], WIDTHS[1:])]


def relu():
    parts = [p for layer in layers() for p in (layer, nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def normed():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x):
        y = self.embed(x)
        y = y + self.attn(y, y, y)[0]
        return self.down(torch.relu(self.up(y)))


def data():
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        yield torch.randn(200, 6, generator=generator)


def rows():
    generator = torch.Generator().manual_seed(7)
    yield torch.randn(20, 5, 6, generator=generator)
"""
MEANS = ("--model", "net.py:relu", "--data", "net.py:data")


def folder(path, a, b):
    (path / "net.py").write_text(NET)
    save(path / "a.safetensors", a)
    save(path / "b.safetensors", b)
    return path


def merge(*argv, cwd, files=("a.safetensors", "b.safetensors")):
    return rebasin("merge", *files, *argv, cwd=cwd)


def merged(*argv, cwd):
    done = merge(*argv, cwd=cwd)
    assert (done.code, done.lines) == (0, ["merged.safetensors"]), done.err
    return load(cwd / "merged.safetensors"), done


def answers(state):
    parts = []
    for number in range(0, 8, 2):
        layer = nn.Linear(*reversed(state[f"{number}.weight"].shape))
        layer.load_state_dict({k: state[f"{number}.{k}"] for k in ("weight", "bias")})
        parts += [layer, nn.ReLU()]
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return nn.Sequential(*parts[:-1])(x)


@pytest.mark.parametrize("method", ["zipit", "cca"])
def test_a_model_and_its_permuted_copy_give_the_model_back(tmp_path, method):
    a = mlp(0)
    found, done = merged("--method", method, *MEANS, cwd=folder(tmp_path, a, shuffled(a)))
    tolerance = 1e-5 if method == "zipit" else 1e-4
    assert torch.allclose(answers(found), answers(a), atol=tolerance * 10)
    for name in a:
        assert torch.allclose(found[name], a[name], atol=tolerance), name
    assert f"{method}: 3 of 3 groups, 28 units" in done.err
    assert "linear maps keep no model's function: judge the result" in done.err


def test_zipping_independent_models_merges_units_of_one_model_too(tmp_path):
    done = merge("--method", "zipit", *MEANS, "--json", cwd=folder(tmp_path, mlp(0), mlp(1)))
    assert done.code == 0, done.err
    event = done.events[0]
    assert (event["event"], event["command"], event["method"]) == ("result", "merge", "zipit")
    assert len(event["mapped"]) == 3
    assert event["permuted"] == {}
    assert event["units"] == 28
    assert event["parameters"] == sum(t.numel() for t in mlp(0).values())
    assert event["flops"] == 2 * (6 * 8 + 8 * 11 + 11 * 9 + 9 * 4)
    assert set(event["samples"].values()) == {600}


def test_zip_takes_more_than_two_models_and_cca_refuses(tmp_path):
    folder(tmp_path, mlp(0), mlp(1))
    save(tmp_path / "c.safetensors", mlp(2))
    files = ("a.safetensors", "b.safetensors", "c.safetensors")
    done = merge("--method", "zipit", *MEANS, cwd=tmp_path, files=files)
    assert done.code == 0, done.err
    done = merge("--method", "cca", *MEANS, cwd=tmp_path, files=files)
    assert (done.code, "cca merges two models, not 3" in done.err) == (2, True)


def test_heads_are_only_permuted_and_it_says_why(tmp_path):
    space: dict = {}
    exec(NET, space)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(space["Heads"]().state_dict())
    folder(tmp_path, *states)
    done = merge(
        *("--method", "zipit", "--model", "net.py:Heads", "--data", "net.py:rows", "--json"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    event = done.events[0]
    assert len(event["mapped"]) >= 1
    assert any("an order of its own for each" in why for why in event["permuted"].values())
    assert all(torch.isfinite(t).all() for t in load(tmp_path / "merged.safetensors").values())


@pytest.mark.parametrize("method", ["zipit", "cca"])
def test_batch_norm_can_be_reset_in_one_go_and_else_a_hint_says_so(tmp_path, method):
    space: dict = {}
    exec(NET, space)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(space["normed"]().state_dict())
    folder(tmp_path, *states)
    means = ("--method", method, "--model", "net.py:normed", "--data", "net.py:data")
    done = merge(*means, "-o", "plain.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "reset" in done.err
    done = merge(*means, "--renormalize", "reset", cwd=tmp_path)
    assert done.code == 0, done.err
    plain, found = load(tmp_path / "plain.safetensors"), load(tmp_path / "merged.safetensors")
    model = space["normed"]()
    model.load_state_dict(found)
    with torch.no_grad():
        units = model[0](torch.cat(list(space["data"]())))
    assert torch.allclose(found["1.running_mean"], units.mean(0), atol=1e-5)
    assert torch.allclose(found["1.running_var"], units.var(0), rtol=1e-3)
    assert (plain["1.running_var"] >= 0).all()
    assert torch.equal(plain["0.weight"], found["0.weight"])


def test_tensors_left_out_are_those_of_the_reference_and_their_units_stay(tmp_path):
    a, b = mlp(0), mlp(1)
    folder(tmp_path, a, b)
    found, _ = merged("--method", "zipit", "--skip", "6.*", *MEANS, cwd=tmp_path)
    for name in ("6.weight", "6.bias"):
        assert torch.equal(found[name], a[name])
    # the units that 6.weight reads have to stay: their tensor is averaged as it is
    assert torch.allclose(found["4.bias"], (a["4.bias"] + b["4.bias"]) / 2)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--method", "zipit"), "a model has to be run"),
        (("--method", "cca", "--model", "net.py:relu"), "there is no data to run the model on"),
        (("--method", "zipit", "--strategy", "none", *MEANS), "zipit starts from aligned models"),
        (
            ("--method", "cca", "--renormalize", "rescale", *MEANS),
            "only their BatchNorm can be corrected",
        ),
        (("--method", "zipit", "-w", "1,2", *MEANS), "zipit merges all units alike"),
        (("--method", "zipit", "--only", "0.*", *MEANS), "there is no group of units"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, argv, said):
    done = merge(*argv, cwd=folder(tmp_path, mlp(0), mlp(1)))
    assert (done.code, said in done.err) == (2, True), done.err
    assert not (tmp_path / "merged.safetensors").exists()


def test_other_commands_do_not_know_the_methods(tmp_path):
    folder(tmp_path, mlp(0), mlp(1))
    done = rebasin(
        "lerp",
        *("a.safetensors", "b.safetensors", "--align", "--at", "0.5"),
        *("--method", "zipit"),
        cwd=tmp_path,
    )
    assert (done.code, "'zipit'" in done.err) == (2, True)


def test_the_plan_says_which_groups_are_mapped(tmp_path):
    done = merge("--method", "zipit", *MEANS, "-n", cwd=folder(tmp_path, mlp(0), mlp(1)))
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert (plan["method"], len(plan["mapped"]), plan["permuted"]) == ("zipit", 3, {})


def test_the_result_lies_in_no_basin_of_a_parent(tmp_path):
    folder(tmp_path, mlp(0), mlp(1))
    merged("--method", "zipit", *MEANS, cwd=tmp_path)
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert record["method"] == "zipit"
    assert record.get("basin") is None
