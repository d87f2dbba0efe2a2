"""`rebasin apply` on files of `rebasin statistics`: what units do follows them to the new order."""

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rebasin_cli as rb
from tests.cli.harness import rebasin
from tests.commands.apply.owned import PERM, write_permutation

NETS = """
import torch
from torch import nn
from torch.nn.functional import softmax


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.build()
        self.double()


class Mlp(Doubled):
    def build(self):
        self.up, self.mid = nn.Linear(6, 8), nn.Linear(8, 7, bias=False)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.mid(torch.relu(self.up(x)))))


class Conv(Doubled):
    def build(self):
        self.one, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.two = nn.ConvTranspose2d(6, 5, 2, bias=False)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return self.out(torch.relu(self.two(x)).mean((2, 3)))


class Attending(Doubled):
    def build(self):
        self.enter, self.qkv = nn.Linear(5, 6), nn.Linear(6, 36)
        self.back, self.out = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.enter(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        seen = softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.out(torch.relu(x + self.back(seen.transpose(1, 2).flatten(2)))).mean(1)


class Experts(Doubled):
    def build(self):
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(3)
        )

    def forward(self, x):
        shares = softmax(self.gate(x), -1)
        return sum(shares[:, k, None] * expert(x) for k, expert in enumerate(self.experts))


def rows():
    return [(x, torch.zeros(40, dtype=torch.long)) for x in _drawn(40, 6)]


def images():
    return [(x, torch.zeros(8, dtype=torch.long)) for x in _drawn(8, 3, 6, 6)]


def sequences():
    return [(x, torch.zeros(8, dtype=torch.long)) for x in _drawn(8, 4, 5)]


def _drawn(*shape):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator).double() for _ in range(4)]
"""

SPECS = {  # with names of groups that no trace gives
    "Mlp": ("rows", "  up.{weight,bias}: [first]\n  mid.weight: [second, first]\n"
            "  out.weight: [~, second]\n  out.bias: [~]\n"),
    "Conv": ("images", "  one.weight: [first]\n"
             "  norm.{weight,bias,running_mean,running_var}: [first]\n"
             "  norm.num_batches_tracked: []\n"
             "  two.weight: [first, second]\n  out.weight: [~, second]\n  out.bias: [~]\n"
             "transposed: [two.weight]\n"),
    "Attending": ("sequences", "  enter.{weight,bias}: [stream]\n"
                  "  qkv.weight: [heads * dot + heads * dot + heads * value, stream]\n"
                  "  qkv.bias: [heads * dot + heads * dot + heads * value]\n"
                  "  back.weight: [stream, heads * value]\n  back.bias: [stream]\n"
                  "  out.weight: [~, stream]\n  out.bias: [~]\n"
                  "groups:\n  heads: {size: 3}\n  dot: {per: heads}\n  value: {per: heads}\n"),
    "Experts": ("rows", "  gate.{weight,bias}: [expert]\n"
                "  experts.[e].0.{weight,bias}: [expert, inner]\n"
                "  experts.[e].2.weight: [expert, ~, inner]\n"
                "  experts.[e].2.bias: [expert]\ngroups:\n  inner: {per: expert}\n"),
}  # fmt: skip
FILE, MOVED, CARRIED = "s.safetensors", "moved.safetensors", "carried.safetensors"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return what makes the folder of a network: two models, the second's order, statistics."""
    made = {}

    def build(name):
        if name not in made:
            made[name] = _build(tmp_path_factory.mktemp(name), name)
        return made[name]

    return build


def _build(folder, name):
    (folder / "nets.py").write_text(NETS)
    space: dict[str, Any] = {}
    exec(NETS, space)
    for seed, file in enumerate("ab"):
        torch.manual_seed(seed)
        model = space[name]()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
        save_file(model.state_dict(), folder / f"{file}.safetensors")
    (folder / "own.yaml").write_text(f"rebasin: 1\nname: own\ntensors:\n{SPECS[name][1]}")
    write_permutation(folder / "b.safetensors", str(folder / "own.yaml"))
    ok(folder, "apply", PERM, "b.safetensors", "-o", MOVED)
    measure(folder, name, "a.safetensors", "b.safetensors", "-o", FILE)
    return folder


def run(folder, *argv):
    return rebasin(*argv, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def ok(folder, *argv):
    done = run(folder, *argv)
    assert done.code == 0, done.err
    return done


def measure(folder, name, *argv):
    target = ("--model", f"nets.py:{name}", "--data", f"nets.py:{SPECS[name][0]}")
    return ok(folder, "statistics", *argv, *target)


def carry(folder, *argv):
    return ok(folder, "apply", PERM, FILE, "--base", "b.safetensors", "--force", *argv)


def assert_alike(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == torch.float64
        assert torch.allclose(tensor, other[name], rtol=1e-9, atol=1e-12), name


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


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def record(path):
    return json.loads(metadata_of(path)["rebasin.statistics"])


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
