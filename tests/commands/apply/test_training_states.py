"""Training goes on from a permuted model and its permuted state as it does from the original."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from rebasin_cli.errors import PermutationError, RebasinWarning
from tests.cli.harness import rebasin
from tests.commands.apply.owned import PERM, applied, write_permutation

SPEC = """
rebasin: 1
name: small
tensors:
  conv.weight: [c, ~, ~, ~]
  conv.bias: [c]
  norm.{weight,bias,running_mean,running_var}: [c]
  norm.num_batches_tracked: []
  wide.weight: [h, c]
  wide.bias: [h]
  deep.weight: [g, h]
  deep.bias: [g]
  head.weight: [~, g]
  head.bias: [~]
buffers: ["norm.running_*", norm.num_batches_tracked]
"""
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.wide, self.deep, self.head = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(F.relu(self.deep(F.relu(self.wide(x)))))


def small():
    torch.manual_seed(0)
    return Small().double()


def train(model, optimizer, steps, seed):
    """Return the losses of some steps on random images."""
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        x = torch.randn(12, 2, 5, 5, generator=generator, dtype=torch.float64)
        loss = F.cross_entropy(model(x), torch.arange(12) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def two_groups(model):
    """Return the parameters as trainers do: what decays, and biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def write_run(folder, make, parameters):
    """Write the model and the optimizer of a run, and a permutation; return the run."""
    model = small()
    optimizer = make(parameters(model))
    train(model, optimizer, 4, seed=1)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4},
        folder / "run.pt",
    )
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "my.yaml").write_text(SPEC)
    write_permutation(folder / "run.pt", str(folder / "my.yaml"))
    return model, optimizer


@pytest.mark.parametrize("parameters", [nn.Module.parameters, two_groups])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_permuting_commutes_with_ten_more_steps(tmp_path, name, parameters):
    make = OPTIMIZERS[name]
    model, optimizer = write_run(tmp_path, make, parameters)
    applied(tmp_path / "run.pt", tmp_path / "moved.pt")
    applied(tmp_path / "optimizer.pt", tmp_path / "alone.pt")
    moved = torch.load(tmp_path / "moved.pt")
    assert moved["epoch"] == 4
    torch.testing.assert_close(
        torch.load(tmp_path / "alone.pt"), moved["optimizer"], rtol=0, atol=0
    )
    other = small()
    other.load_state_dict(moved["model"])
    assert not torch.equal(other.deep.weight, model.deep.weight)
    following = make(parameters(other))
    following.load_state_dict(moved["optimizer"])
    losses = train(model, optimizer, 10, seed=2)
    assert train(other, following, 10, seed=2) == pytest.approx(losses, rel=1e-9)
    stale = make(parameters(other))
    stale.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    other.load_state_dict(moved["model"])
    assert train(other, stale, 10, seed=2) != pytest.approx(losses, rel=1e-6)


def test_the_command_says_what_followed_and_the_inverse_brings_it_back(tmp_path):
    write_run(tmp_path, OPTIMIZERS["adam"], nn.Module.parameters)
    done = rebasin("apply", PERM, "run.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "follow the weights: optimizer" in done.err
    assert "stale" not in done.err
    argv = ("apply", PERM, "run.permuted.pt", "--inverse", "-o", "back.pt", "--json")
    again = rebasin(*argv, cwd=tmp_path)
    event = next(e for e in again.events if e["event"] == "result")
    assert (event["parts"], event["stale"]) == (["optimizer"], [])
    back, before = (torch.load(tmp_path / name) for name in ("back.pt", "run.pt"))
    torch.testing.assert_close(back, before, rtol=0, atol=0)


def test_an_optimizer_without_moments_is_written_as_it_is(tmp_path):
    write_run(tmp_path, OPTIMIZERS["sgd"], nn.Module.parameters)
    state = torch.optim.SGD(small().parameters(), lr=0.1).state_dict()
    torch.save(state, tmp_path / "fresh.pt")
    done = rebasin("apply", PERM, "fresh.pt", "--base", "run.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "0 of 0 tensors of the training state moved" in done.err
    assert torch.load(tmp_path / "fresh.permuted.pt") == state


def test_names_in_the_state_count_more_than_numbers(tmp_path):
    model, _ = write_run(tmp_path, OPTIMIZERS["adam"], nn.Module.parameters)
    turned = list(model.named_parameters())[::-1]
    optimizer = torch.optim.Adam(turned)
    train(model, optimizer, 1, seed=3)
    torch.save(optimizer.state_dict(), tmp_path / "named.pt")
    done = applied(tmp_path / "named.pt", tmp_path / "out.pt")
    assert (done.belonging.kind, done.belonging.tensors) == ("training state", 20)
    applied(tmp_path / "optimizer.pt", tmp_path / "alone.pt")
    names = [name for name, _ in turned]
    found = torch.load(tmp_path / "out.pt")["state"]
    weights = {n: dict(model.named_parameters())[n] for n in names}
    torch.save({n: found[k]["exp_avg"] for k, n in enumerate(names)}, tmp_path / "moments.pt")
    applied(tmp_path / "moments.pt", tmp_path / "back.pt", inverse=True)
    back = torch.load(tmp_path / "back.pt")
    assert all(torch.equal(back[n], optimizer.state[p]["exp_avg"]) for n, p in weights.items())


def test_parameters_that_could_be_others_are_refused(tmp_path):
    model, _ = write_run(tmp_path, OPTIMIZERS["adam"], nn.Module.parameters)
    half = torch.optim.Adam([model.wide.bias])  # deep.bias has the same shape
    train(model, half, 1, seed=3)
    torch.save(half.state_dict(), tmp_path / "half.pt")
    with pytest.raises(PermutationError, match=r"could be 'deep.bias' or 'wide.bias'"):
        applied(tmp_path / "half.pt", tmp_path / "out.pt")
    other = torch.optim.Adam([nn.Parameter(torch.zeros(5, 5))])
    other.param_groups[0]["params"][0].grad = torch.ones(5, 5)
    other.step()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(PermutationError, match="not those of the model's parameters"):
        applied(tmp_path / "other.pt", tmp_path / "out.pt")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"state1": torch.zeros(6, 9, dtype=torch.uint8), "absmax1": torch.ones(2)}, "8-bit"),
        ({"GG": [torch.ones(6, 6)]}, "what it belongs to is not known"),
        ({"preconditioner": torch.ones(7, 7)}, "no optimizer is known that keeps it"),
    ],
)
def test_states_that_cannot_follow_are_named_and_refused_or_kept(tmp_path, more, said):
    write_run(tmp_path, OPTIMIZERS["sgd"], nn.Module.parameters)
    run = torch.load(tmp_path / "run.pt")
    run["optimizer"]["state"][0] |= more
    torch.save(run, tmp_path / "run.pt")
    with pytest.raises(PermutationError, match=rf"'optimizer.state.0.{list(more)[-1]}': .*{said}"):
        applied(tmp_path / "run.pt", tmp_path / "out.pt")
    with pytest.warns(RebasinWarning, match="kept as it is, in the order of the old weights"):
        done = applied(tmp_path / "run.pt", tmp_path / "out.pt", keep_unknown=True)
    assert done.written.fate.stale == ("optimizer",)
    kept = torch.load(tmp_path / "out.pt")["optimizer"]
    torch.testing.assert_close(kept, run["optimizer"], rtol=0, atol=0)


def test_gradients_and_lists_by_number_follow(tmp_path):
    model, _ = write_run(tmp_path, OPTIMIZERS["adam"], nn.Module.parameters)
    run = torch.load(tmp_path / "run.pt")
    run["grads"] = {n: p.grad for n, p in model.named_parameters()}
    run["averaged_optimizer"] = {"shadow_params": [p.detach() for p in model.parameters()]}
    torch.save(run, tmp_path / "run.pt")
    done = applied(tmp_path / "run.pt", tmp_path / "out.pt")
    assert done.written.fate.parts == ("optimizer", "grads", "averaged_optimizer")
    out = torch.load(tmp_path / "out.pt")
    names = [name for name, _ in model.named_parameters()]
    listed = out["averaged_optimizer"]["shadow_params"]
    assert all(torch.equal(t, out["model"][n]) for t, n in zip(listed, names, strict=True))
    order = [int((run["model"]["deep.bias"] == b).nonzero()) for b in out["model"]["deep.bias"]]
    assert torch.equal(out["grads"]["deep.bias"], run["grads"]["deep.bias"][order])


def test_the_order_of_a_safetensors_file_numbers_nothing(tmp_path):
    model, _ = write_run(tmp_path, OPTIMIZERS["adam"], nn.Module.parameters)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_permutation(tmp_path / "model.safetensors", str(tmp_path / "my.yaml"))
    done = rebasin("apply", PERM, "optimizer.pt", "-o", "out.pt", cwd=tmp_path)
    assert done.code == 3
    assert "the order of the model's is not known" in done.err
    assert "names its module, in Python base=net; or name a .pt of it with --base" in done.err
    argv = ("apply", PERM, "optimizer.pt", "-o", "out.pt")
    assert rebasin(*argv, "--base", "run.pt", cwd=tmp_path).code == 0
    wanted = torch.load(tmp_path / "out.pt")
    module = ("--model", f"{__file__}:Small", "--input-shape", "2,2,5,5", "-f")
    assert rebasin(*argv, *module, cwd=tmp_path).code == 0
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), wanted, rtol=0, atol=0)


def test_experts_take_their_moments_and_adapters_along(tmp_path):
    torch.manual_seed(0)
    state = {f"experts.{e}.{n}.weight": torch.randn(4, 4) for e in range(3) for n in ("up", "down")}
    state["router.weight"] = torch.randn(3, 4)
    spec = """
rebasin: 1
name: experts
groups: {h: {per: e}}
tensors:
  experts.[e].up.weight: [e, h, ~]
  experts.[e].down.weight: [e, ~, h]
  router.weight: [e, ~]
"""
    (tmp_path / "my.yaml").write_text(spec)
    moments = {k: {"exp_avg": t.double() ** 3} for k, t in enumerate(state.values())}
    optimizer = {"state": moments, "param_groups": [{"params": list(moments)}]}
    torch.save({"model": state, "optimizer": optimizer}, tmp_path / "run.pt")
    write_permutation(tmp_path / "run.pt", str(tmp_path / "my.yaml"))
    applied(tmp_path / "run.pt", tmp_path / "out.pt")
    out = torch.load(tmp_path / "out.pt")
    moved = out["model"]
    assert not torch.equal(moved["router.weight"], state["router.weight"])
    for number, name in enumerate(state):
        assert torch.equal(out["optimizer"]["state"][number]["exp_avg"], moved[name].double() ** 3)
    factors = {f"experts.{e}.up.lora_B.weight": torch.randn(4, 2) for e in range(3)}
    factors |= {f"experts.{e}.up.lora_A.weight": torch.randn(2, 4) for e in range(3)}
    save_file(factors, tmp_path / "lora.safetensors")
    applied(tmp_path / "lora.safetensors", tmp_path / "new.safetensors")
    new = load_file(tmp_path / "new.safetensors")
    for name in (f"experts.{e}.up" for e in range(3)):
        old = next(
            f"experts.{e}.up" for e in range(3)
            if torch.equal(new[f"{name}.lora_A.weight"], factors[f"experts.{e}.up.lora_A.weight"])
        )  # fmt: skip
        rows = [state[f"{old}.weight"].tolist().index(r) for r in moved[f"{name}.weight"].tolist()]
        assert torch.equal(new[f"{name}.lora_B.weight"], factors[f"{old}.lora_B.weight"][rows])
    save_file({n: t for n, t in factors.items() if ".2." not in n}, tmp_path / "two.safetensors")
    with pytest.raises(PermutationError, match=r"'experts.2.up.weight' has no such tensor"):
        applied(tmp_path / "two.safetensors", tmp_path / "new.safetensors")
