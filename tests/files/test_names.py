"""Names that differ while networks do not: seen through, kept in outputs, or mended by a hint."""

import re
import shlex
from collections.abc import Callable

import pytest
import torch

from tests.cli.build import load, mlp, near, same, save, shuffled
from tests.cli.harness import rebasin

Naming = Callable[[str], str]


def put(prefix: str) -> Naming:
    return lambda name: prefix + name


NAMINGS: dict[str, Naming] = {
    "plain": put(""),
    "module": put("module."),
    "compiled": put("_orig_mod."),
    "fsdp": put("_fsdp_wrapped_module."),
    "deepspeed": put("_forward_module.module."),
    "prefix": put("model."),
    "long prefix": put("student.backbone.net."),
    "compiled inside": put("model._orig_mod."),
    "inner compiled": lambda name: name.replace(".", "._orig_mod.", 1),
    "inner checkpointed": lambda name: "net." + name.replace(".", "._checkpoint_wrapped_module."),
    "inner parallel": put("encoder.module."),
    "parametrized": lambda name: name.replace(".weight", ".parametrizations.weight.original"),
}


@pytest.fixture
def states():
    state = mlp(1)
    return state, near(shuffled(state), 2)


def renamed(state, naming):
    return {naming(name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "ours",
    ["plain", *(pytest.param(n, marks=pytest.mark.slow) for n in ("prefix", "inner compiled"))],
)
@pytest.mark.parametrize("theirs", NAMINGS)
def test_wrappers_and_prefixes_change_nothing_but_the_names(tmp_path, states, ours, theirs):
    a, b = states
    ending = ".safetensors" if ours == "prefix" else ".pt"
    save(tmp_path / "a.pt", renamed(a, NAMINGS[ours]))
    save(tmp_path / f"b{ending}", renamed(b, NAMINGS[theirs]))
    save(tmp_path / "plain-a.pt", a)
    save(tmp_path / "plain-b.pt", b)
    done = rebasin("align", "a.pt", f"b{ending}", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "3 of 3 groups moved" in done.err
    rebasin("align", "plain-a.pt", "plain-b.pt", cwd=tmp_path)
    wanted = renamed(load(tmp_path / "plain-b.aligned.pt"), NAMINGS[theirs])
    assert same(load(tmp_path / f"b.aligned{ending}"), wanted)


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_pair_under_any_names_has_the_same_spec(tmp_path, states, naming):
    for name, state in zip("ab", states, strict=True):
        save(tmp_path / f"{name}.pt", renamed(state, NAMINGS[naming]))
    done = rebasin("merge", "a.pt", "b.pt", "-o", "m.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "spec mlp" in done.err
    assert load(tmp_path / "m.pt").keys() == renamed(states[0], NAMINGS[naming]).keys()
    again = rebasin("align", "a.pt", "b.pt", "--spec", "mlp", "-o", "c.pt", cwd=tmp_path)
    assert again.code == 0, again.err


def test_a_saved_permutation_fits_the_model_under_any_names(tmp_path, states):
    a, b = states
    save(tmp_path / "a.pt", renamed(a, put("net.")))
    save(tmp_path / "b.pt", renamed(b, put("net.")))
    save(tmp_path / "c.pt", renamed(b, put("module.ema.")))
    rebasin("align", "a.pt", "b.pt", "--save-permutation", "p.safetensors", cwd=tmp_path)
    done = rebasin("apply", "p.safetensors", "c.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    moved = load(tmp_path / "b.aligned.pt")
    found = load(tmp_path / "c.permuted.pt")
    assert all(torch.equal(found[f"module.ema.{n[4:]}"], tensor) for n, tensor in moved.items())


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("command", ["align", "merge", "lerp --align --at 0.5", "verify"])
def test_a_counter_of_a_wrapper_is_a_buffer(tmp_path, states, order, command):
    state = states[0]
    save(tmp_path / "a.pt", state)
    save(
        tmp_path / "b.pt",
        {"n_averaged": torch.tensor(3), **renamed(shuffled(state), put("module."))},
    )
    paths = [f"{name}.pt" for name in order]
    out = [] if command == "verify" else ["-o", "out.pt"]
    done = rebasin(*command.split(), *paths, *out, cwd=tmp_path)
    assert done.code == 0, done.err
    if out:
        like = order[1] if command == "align" else order[0]
        assert load(tmp_path / "out.pt").keys() == load(tmp_path / f"{like}.pt").keys()


def test_a_chain_that_would_lack_a_counter_is_refused(tmp_path, states):
    save(tmp_path / "a.pt", {"n_averaged": torch.tensor(3), **states[0]})
    save(tmp_path / "b.pt", states[1])
    done = rebasin("lerp", "a.pt", "b.pt", "b.pt", "--chain", "--steps", "1", cwd=tmp_path)
    assert done.code == 3
    assert "n_averaged is in a.pt only" in done.err


def test_modules_side_by_side_are_no_chain_by_themselves(tmp_path, states):
    for name, state in zip("ab", states, strict=True):
        save(tmp_path / f"{name}.pt", renamed(state, put("heads.")))
    assert rebasin("align", "a.pt", "b.pt", cwd=tmp_path).code == 2
    assert rebasin("align", "a.pt", "b.pt", "--spec", "mlp", cwd=tmp_path).code == 0


def test_a_module_called_module_stays_in_a_plain_model(tmp_path, states):
    state = {**renamed(states[0], put("module.")), "scale": torch.ones(2)}
    save(tmp_path / "a.pt", state)
    done = rebasin("inspect", "a.pt", cwd=tmp_path)
    assert "module.0.weight" in done.out


@pytest.mark.parametrize("square", [True, False])
def test_a_square_parametrization_may_be_symmetric_and_stays(tmp_path, square):
    naming = NAMINGS["parametrized"]
    widths = (6, 8, 8, 4) if square else (6, 8, 7, 4)
    for k in range(2):
        save(tmp_path / f"{k}.pt", renamed(mlp(k, widths), naming))
    assert rebasin("align", "0.pt", "1.pt", cwd=tmp_path).code == (2 if square else 0)


def test_gamma_and_beta_are_weight_and_bias_of_a_norm_but_not_of_a_scale(tmp_path):
    def write(name, scale, shift, value):
        state = {f"norm.{scale}": torch.full((3,), value), f"norm.{shift}": torch.zeros(3)}
        save(tmp_path / name, {**state, "layer.gamma": torch.full((3,), value)})

    write("a.pt", "weight", "bias", 1.0)
    write("b.pt", "gamma", "beta", 3.0)
    done = rebasin("merge", "a.pt", "b.pt", "--strategy", "none", "-o", "m.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    merged = load(tmp_path / "m.pt")
    assert merged.keys() == {"norm.weight", "norm.bias", "layer.gamma"}
    assert merged["norm.weight"].tolist() == merged["layer.gamma"].tolist() == [2, 2, 2]
    save(tmp_path / "c.pt", {"x.gamma": torch.ones(3)})
    save(tmp_path / "d.pt", {"x.weight": torch.ones(3)})
    refused = rebasin("merge", "c.pt", "d.pt", "--strategy", "none", cwd=tmp_path)
    assert refused.code == 3


@pytest.mark.parametrize("first", ["emb", "out"])
@pytest.mark.parametrize("kept", ["emb", "out"])
def test_one_name_of_a_tied_pair_is_both(tmp_path, first, kept):
    weight, other = torch.randn(6, 4), torch.randn(6, 4)
    names = [first, *({"emb", "out"} - {first})]
    torch.save(dict.fromkeys(names, weight), tmp_path / "a.pt")
    save(tmp_path / "b.safetensors", {kept: other})
    for paths in (("a.pt", "b.safetensors"), ("b.safetensors", "a.pt")):
        done = rebasin("lerp", *paths, "--at", "1", "-o", "m.pt", "-f", cwd=tmp_path)
        assert done.code == 0, done.err
        found = load(tmp_path / "m.pt")
        assert found.keys() == (set(names) if paths[0] == "a.pt" else {kept})
        wanted = other if paths[0] == "a.pt" else weight
        assert all(torch.equal(tensor, wanted) for tensor in found.values())


def pasted(done, *argv, cwd):
    """Run a command again with the options that its hint names."""
    hint = next(line for line in done.err.splitlines() if line.startswith("hint: --"))
    words = re.match(r"((?:--[a-z-]+ '[^']*' ?)+)", hint.removeprefix("hint: "))
    assert words, hint
    return rebasin(*argv, *shlex.split(words[1]), "-f", cwd=cwd)


HINTED = {
    "a module": lambda state: renamed(state, lambda n: "enc." + n.replace("2.", "mid.")),
    "a part": lambda s: {**renamed(s, put("student.")), **renamed(s, put("teacher."))},
    "a tail": lambda state: renamed(state, lambda name: name.replace("weight", "kernel")),
    "a head": lambda state: {**state, "score.weight": torch.ones(3, 4)},
    "a list": lambda state: {**state, "extra.0.w": torch.ones(3), "extra.1.w": torch.ones(3)},
}


@pytest.mark.parametrize("kind", HINTED)
def test_every_hint_about_names_works_when_it_is_pasted(tmp_path, states, kind):
    a, b = states
    save(tmp_path / "a.pt", a)
    save(tmp_path / "b.pt", HINTED[kind](b))
    argv = ("merge", "a.pt", "b.pt", "--strategy", "none", "-o", "m.pt")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 3
    again = pasted(done, *argv, cwd=tmp_path)
    assert again.code == 0, again.err
    assert load(tmp_path / "m.pt").keys() == a.keys()


def test_rename_is_for_one_input_or_all_and_outputs_keep_their_names(tmp_path, states):
    a, b = states
    save(tmp_path / "a.pt", renamed(a, put("x1.")))
    save(tmp_path / "b.pt", renamed(b, put("deep.y2.")))
    argv = ("align", "a.pt", "b.pt", "-f", "--spec", "mlp")
    done = rebasin(*argv, "--rename", r"1:^x1\.=", "--rename", r"2:^deep\.y2\.=", cwd=tmp_path)
    assert done.code == 0, done.err
    assert load(tmp_path / "b.aligned.pt").keys() == load(tmp_path / "b.pt").keys()
    done = rebasin(*argv, "--rename", r"^(x1|deep\.y2)\.(?=\d)=layers.", cwd=tmp_path)
    assert done.code == 0, done.err
    assert rebasin("inspect", "a.pt", "--rename", "x1=q", cwd=tmp_path).out.startswith("q.0.weight")


@pytest.mark.parametrize(
    ("rename", "code", "says"),
    [
        ("nothing=x", 2, "--rename nothing=x changes no name"),
        ("3:0=x", 2, "--rename 3:0=x changes no name"),
        ("(=x", 2, "OLD is a regular expression"),
        (r"0=\2", 2, "OLD is a regular expression"),
        ("no equals sign", 2, "is not OLD=NEW"),
        (r"1:\d=7", 3, "--rename makes 4 tensors '7.weight'"),
    ],
)
def test_a_rename_that_cannot_be_meant_is_refused(tmp_path, states, rename, code, says):
    for name, state in zip("ab", states, strict=True):
        save(tmp_path / f"{name}.pt", state)
    done = rebasin("align", "a.pt", "b.pt", "--rename", rename, cwd=tmp_path)
    assert done.code == code
    assert says in done.err.replace("\n", " ")


def test_two_models_in_one_file_are_not_chosen_between(tmp_path, states):
    a, b = states
    save(tmp_path / "a.pt", a)
    save(tmp_path / "b.pt", {**renamed(a, put("x.")), **renamed(b, put("y."))})
    done = rebasin("align", "a.pt", "b.pt", cwd=tmp_path)
    assert done.code == 3
    assert r"--rename '2:^x\.=' --skip 'y.*' takes the part 'x.' of it" in done.err
