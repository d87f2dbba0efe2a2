"""`rebasin transport` by rotations and by layers, masked, judged: with models that are run."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rebasin_cli.commands.transport.layerwise.layer_maps import polar
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import store
from tests.symmetry.small import NETS, case, layer_norm, outputs

NARROW, WIDE, INPUTS, CLASSES = 6, 9, 8, 3
USER = f"""
import torch
from torch import nn

def net(hidden):
    sizes = ({INPUTS}, hidden), (hidden, {NARROW}), ({NARROW}, {CLASSES})
    return nn.Sequential(*(nn.Linear(*size) for size in sizes)).double()

def narrow(): return net({NARROW})
def wide(): return net({WIDE})

def batches(count=4, labelled=True):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(16, {INPUTS}, generator=generator).double()
        yield (x, x[:, :{CLASSES}].argmax(1)) if labelled else x

def inputs(): return batches(labelled=False)

def held_out_otherwise():
    for place, (x, y) in enumerate(batches()):
        yield (x, y) if place % 2 else (2 * x, y)

def one(): return batches(1)
"""
MIXED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 2)
        self.norm = nn.BatchNorm2d(6)
        self.pos = nn.Parameter(torch.randn(1, 9, 6))
        self.ln = nn.LayerNorm(6)
        self.qkv = nn.Linear(6, 18)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm(self.conv(x)).flatten(2).transpose(1, 2) + self.pos
        q, k, v = self.qkv(self.ln(x)).chunk(3, -1)
        return self.head((x + (q @ k.transpose(1, 2)).softmax(-1) @ v).mean(1))

def pictures():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield torch.randn(20, 2, 4, 4, generator=generator), torch.arange(20) % 3
"""
ATTENDING = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mine = nn.MultiheadAttention(6, 1, batch_first=True)
        self.theirs = nn.MultiheadAttention(6, 1, kdim=5, vdim=4, add_bias_kv=True)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = x + self.mine(x, x, value=x, need_weights=False)[0]
        y = x.transpose(0, 1)
        x = x + self.theirs(y, y[..., :5], y[..., 1:5])[0].transpose(0, 1)
        return self.head(self.block(x).mean(1))

def sentences():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        yield torch.randn(12, 5, 6, generator=generator), torch.arange(12) % 3
"""
CALL = ("transport", "t.safetensors", "--from", "a.safetensors", "--to", "b.safetensors", "--json")
RUN = ("--model", "user.py:narrow", "--data", "user.py:batches")
LAYERS = ("--map", "layerwise")


def code():
    names: dict = {}
    exec(USER, names)
    return names


def orthonormal(rows, columns, seed):
    """Return a matrix of orthonormal rows."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square).Q[:rows].contiguous()


def turned(state, first, second):
    """Return a linear network with what its hidden layers hold multiplied by two matrices."""
    return {
        "0.weight": first.T @ state["0.weight"],
        "0.bias": state["0.bias"] @ first,
        "1.weight": second.T @ state["1.weight"] @ first,
        "1.bias": state["1.bias"] @ second,
        "2.weight": state["2.weight"] @ second,
        "2.bias": state["2.bias"],
    }


def write(folder, first, second):
    """Write a network, it turned, a fine-tune of it; return what the fine-tune is, turned."""
    (folder / "user.py").write_text(USER)
    torch.manual_seed(3)
    a = code()["narrow"]().state_dict()
    tuned = {n: v + 0.1 * torch.randn(v.shape, dtype=v.dtype) for n, v in a.items()}
    for name, state in (("a", a), ("b", turned(a, first, second)), ("t", tuned)):
        save_file({n: v.contiguous() for n, v in state.items()}, folder / f"{name}.safetensors")
    return turned(tuned, first, second)


def carried(folder, *argv):
    done = rebasin(*CALL, "--no-check", *argv, cwd=folder)
    assert done.code == 0, done.err
    return load_file(folder / "t.transported.safetensors"), done


def near(found, wanted):
    return all(torch.allclose(found[n], wanted[n], rtol=0, atol=1e-6) for n in wanted)


def test_a_planted_rotation_of_layers_is_recovered(tmp_path):
    turns = orthonormal(NARROW, NARROW, 1), orthonormal(NARROW, NARROW, 2)
    wanted = write(tmp_path, *turns)
    found, done = carried(tmp_path, *LAYERS, *RUN)
    assert near(found, wanted)
    assert done.events[0]["unmapped"] == []
    worth = {one["model"]: one["loss"] for one in done.events[0]["scores"]}
    assert worth["transported"] == pytest.approx(worth["tuned"], abs=1e-6)
    assert abs(worth["naive"] - worth["tuned"]) > 1e-3


def test_a_difference_goes_between_widths(tmp_path):
    turns = orthonormal(NARROW, WIDE, 1), orthonormal(NARROW, NARROW, 2)
    wanted = write(tmp_path, *turns)
    run = ("--model", "user.py:wide", "--from-model", "user.py:narrow", "--data", "user.py:batches")
    found, done = carried(tmp_path, *LAYERS, *run)
    assert near(found, wanted)
    names = [one["model"] for one in done.events[0]["scores"]]
    assert names == ["target", "transported", "tuned"]
    narrow = rebasin(*CALL, *RUN, "-f", cwd=tmp_path)
    assert narrow.code == 3
    assert "of another shape" in narrow.err


def test_without_a_change_layers_leave_the_target_to_the_byte(tmp_path):
    write(tmp_path, orthonormal(NARROW, NARROW, 1), orthonormal(NARROW, NARROW, 2))
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    found, done = carried(
        tmp_path, *LAYERS, "--model", "user.py:narrow", "--data", "user.py:inputs"
    )
    assert all(torch.equal(v, found[n]) for n, v in load_file(tmp_path / "b.safetensors").items())
    assert done.events[0]["scores"] == []  # inputs alone say nothing of how good a model is


def test_a_mask_keeps_what_goes_down_the_slope_of_the_target(tmp_path):
    write(tmp_path, torch.eye(NARROW).double(), torch.eye(NARROW).double())
    found, done = carried(tmp_path, "--mask-gradients", *RUN)
    a, tuned = (load_file(tmp_path / f"{name}.safetensors") for name in "at")
    net = code()["narrow"]()
    net.load_state_dict(a)
    for x, y in list(code()["batches"]())[1::2]:  # the others are held out
        F.cross_entropy(net(x), y, reduction="sum").backward()
    slopes = {name: p.grad for name, p in net.named_parameters()}
    kept = {n: (tuned[n] - a[n]).sign() == -slopes[n].sign() for n in a}
    assert all(torch.equal(found[n], torch.where(kept[n], tuned[n], a[n])) for n in a)
    share = sum(int(k.sum()) for k in kept.values()) / sum(k.numel() for k in kept.values())
    assert 0.2 < share < 0.8
    assert done.events[0]["kept"] == pytest.approx(share)


@pytest.mark.parametrize("way", [LAYERS, ("--mask-gradients",), ("--method", "activations")])
def test_scores_are_on_batches_that_nothing_was_learned_from(tmp_path, way):
    write(tmp_path, orthonormal(NARROW, NARROW, 1), orthonormal(NARROW, NARROW, 2))
    found, done = carried(tmp_path, *way, *RUN)
    assert done.events[0]["scores_held_out"] is True
    assert "held out from maps and masks" in done.err
    other = ("--model", "user.py:narrow", "--data", "user.py:held_out_otherwise", "-f")
    again, after = carried(tmp_path, *way, *other)
    assert all(torch.equal(found[n], again[n]) for n in found)
    assert done.events[0]["scores"] != after.events[0]["scores"]


def test_of_one_batch_nothing_is_held_out_and_it_is_said(tmp_path):
    wanted = write(tmp_path, torch.eye(NARROW).double(), torch.eye(NARROW).double())
    run = ("--model", "user.py:narrow", "--data", "user.py:one")
    found, done = carried(tmp_path, *LAYERS, *run)
    assert near(found, wanted)
    assert done.events[0]["scores_held_out"] is False
    assert "yield two, and every second one is held out" in done.err


def test_the_scale_is_the_one_of_least_loss_on_held_out_batches(tmp_path):
    write(tmp_path, torch.eye(NARROW).double(), torch.eye(NARROW).double())
    a, net = load_file(tmp_path / "a.safetensors"), code()["narrow"]()
    net.load_state_dict(a)
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(20):
        for x, y in code()["batches"]():
            adam.zero_grad()
            F.cross_entropy(net(x), y).backward()
            adam.step()
    trained = {n: v.detach().clone() for n, v in net.state_dict().items()}
    for sign, least, most in ((1, 0.7, 1.5), (-1, 0, 0)):
        state = {n: a[n] + sign * (trained[n] - a[n]) for n in a}
        save_file(state, tmp_path / "t.safetensors")
        _, done = carried(tmp_path, "--scale", "auto", *RUN, "-f")
        assert least <= done.events[0]["scale"] <= most
        assert ("not worth it here" in done.err) == (sign < 0)


@pytest.mark.parametrize("kind", NETS)
def test_between_rotated_copies_the_result_is_the_folded_fine_tune_rotated(kind, tmp_path):
    found, generator = case(kind), torch.Generator().manual_seed(4)
    plan = found.plan
    maps = draw_maps(plan.moving.groups.values(), plan.classes, generator)

    def moved(state):
        source = Carried(FoldedNorms(InMemory(state), plan), plan.moving.tensors, maps)
        return {name: source.load(name) for name in state}

    tuned = {
        n: v + 0.01 * torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for n, v in found.state.items()
    }
    for name, state in (("a", found.state), ("b", moved(found.state)), ("t", tuned)):
        store(tmp_path / f"{name}.safetensors", state)
    (tmp_path / "my.yaml").write_text(NETS[kind])
    result, done = carried(tmp_path, "--map", "orthogonal", "--spec", "my.yaml")
    assert near(result, moved(tuned))
    assert "folded" in done.err
    assert done.events[0]["folded"] is True


def test_a_head_that_parts_from_the_embedding_has_a_difference_of_its_own(tmp_path):
    found, generator = case("layer norm", tied=True), torch.Generator().manual_seed(4)
    tuned = {
        n: v + 0.01 * torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for n, v in found.state.items()
    }
    for name, state in (("a", found.state), ("b", found.state), ("t", tuned)):
        store(tmp_path / f"{name}.safetensors", state)
    (tmp_path / "my.yaml").write_text(NETS["layer norm"])
    way = ("--map", "orthogonal", "--tie", "untie", "--spec", "my.yaml")
    result, done = carried(tmp_path, *way)
    assert done.events[0]["carried"] == len(tuned) + 1
    assert "its own now, 'head.weight': tie_word_embeddings must be false" in done.err
    wanted = outputs(found.net, tuned)
    assert torch.allclose(outputs(layer_norm(), result), wanted, rtol=0, atol=1e-6)


def test_the_polar_factor_keeps_in_place_what_no_data_show():
    product = torch.diag(torch.tensor([2.0, 0, 0, 5]).double())
    assert torch.allclose(polar(product), torch.eye(4).double())
    turn = orthonormal(4, 4, 5)
    assert torch.allclose(
        polar(turn @ torch.diag(torch.tensor([1.0, 2, 3, 4])).double() @ turn.T),
        torch.eye(4).double(),
    )
    assert torch.allclose(polar(torch.zeros(2, 3).double()), torch.eye(2, 3).double())


def test_norms_positions_and_fused_projections_are_carried(tmp_path):
    """Between copies of one network every tensor of every kind is carried as it is."""
    (tmp_path / "user.py").write_text(MIXED)
    names: dict = {}
    exec(MIXED, names)
    torch.manual_seed(0)
    a = {n: v.clone() for n, v in names["Net"]().state_dict().items()}
    tuned = {n: v + 0.1 if v.is_floating_point() else v for n, v in a.items()}
    for name, state in (("a", a), ("b", a), ("t", tuned)):
        save_file(state, tmp_path / f"{name}.safetensors")
    run = ("--model", "user.py:Net", "--data", "user.py:pictures")
    found, done = carried(tmp_path, *LAYERS, *run)
    assert done.events[0]["unmapped"] == []
    floating = [n for n, v in a.items() if v.is_floating_point()]
    gaps = {n: float((found[n] - tuned[n]).abs().max()) for n in floating}
    assert max(gaps.values()) < 1e-3, gaps


def turned_inside(state):
    """Return an attending network whose heads hold their queries, keys and values rotated."""
    found = dict(state)
    for name, seed in (("mine", 1), ("theirs", 3)):
        scores, values = (orthonormal(6, 6, seed + k).float() for k in range(2))
        for kind, turn in zip("qkv", (scores, scores, values), strict=True):
            part = slice("qkv".index(kind) * 6, "qkv".index(kind) * 6 + 6)
            fused = f"{name}.in_proj_weight"
            if fused in state:
                found[fused] = found[fused].clone()
                found[fused][part] = turn.T @ state[fused][part]
            else:
                whole = f"{name}.{kind}_proj_weight"
                found[whole] = turn.T @ state[whole]
            bias = f"{name}.in_proj_bias"
            found[bias] = found[bias].clone()
            found[bias][part] = state[bias][part] @ turn
            if f"{name}.bias_{kind}" in state:
                found[f"{name}.bias_{kind}"] = state[f"{name}.bias_{kind}"] @ turn
        last = f"{name}.out_proj.weight"
        found[last] = state[last] @ values
    return found


def test_what_torchs_attention_learnt_is_carried_inside_of_it(tmp_path):
    (tmp_path / "user.py").write_text(ATTENDING)
    names: dict = {}
    exec(ATTENDING, names)
    torch.manual_seed(0)
    a = {n: v + 0.1 * torch.randn(v.shape) for n, v in names["Net"]().state_dict().items()}
    tuned = {n: v + 0.1 * torch.randn(v.shape) for n, v in a.items()}
    for name, state in (("a", a), ("b", turned_inside(a)), ("t", tuned)):
        save_file({n: v.contiguous() for n, v in state.items()}, tmp_path / f"{name}.safetensors")
    run = ("--model", "user.py:Net", "--data", "user.py:sentences")
    found, done = carried(tmp_path, *LAYERS, *run)
    assert done.events[0]["unmapped"] == []
    wanted = turned_inside(tuned)
    gaps = {n: float((found[n] - wanted[n]).abs().max()) for n in wanted}
    assert max(gaps.values()) < 1e-3, gaps
    apart = {n: float((tuned[n] - wanted[n]).abs().max()) for n in wanted}
    assert sum(gap > 0.1 for gap in apart.values()) == 10


@pytest.mark.parametrize("method", ["activations", "weights"])
def test_a_planted_order_is_found_by_either_method_and_carried_exactly(tmp_path, method):
    eye = torch.eye(NARROW).double()
    wanted = write(tmp_path, eye[torch.tensor([3, 0, 5, 1, 4, 2])], eye.flip(0))
    found, done = carried(tmp_path, "--method", method, *RUN)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert done.events[0]["method"] == method
