"""Fixed groups from the outside: what is moved, said and saved."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rebasin_cli.permutation import identity
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.cli.build import load, near, same, save
from tests.cli.harness import rebasin
from tests.models import EXAMPLES
from tests.proof import draw, stored
from tests.test_specs import CONSTRUCTS

PERM = "p.safetensors"
ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "own.yaml")


@pytest.fixture
def planted(tmp_path):
    """Write own.yaml, a, and b: a with the dims inside its fixed heads and its stream shuffled."""
    (tmp_path / "own.yaml").write_text(f"rebasin: 1\ntensors:{CONSTRUCTS['alibi'][1]}")
    state = {n: v.float() for n, v in stored(EXAMPLES["alibi"].model(seed=1)).items()}
    source = InMemory(state)
    bound = bind(load_spec(str(tmp_path / "own.yaml")), infos(source))
    moved = Permuted(source, bound.tensors, draw(bound, seed=2))
    save(tmp_path / "a.safetensors", state)
    save(tmp_path / "b.safetensors", {name: moved.load(name).clone() for name in state})
    return tmp_path


def test_models_that_differ_inside_fixed_heads_are_aligned(planted):
    done = rebasin(*ALIGN, "--json", cwd=planted)
    assert done.code == 0
    groups = {g["name"]: g for g in done.events[1]["groups"]}
    assert {name: g["fixed"] for name, g in groups.items()} == {
        "stream": False,
        "head": True,
        "qk": False,
        "vo": False,
    }
    assert groups["head"]["moved"] == 0
    assert groups["qk"]["moved"] > 0
    one, other = (load(planted / f"{name}.safetensors") for name in ("a", "b.aligned"))
    assert same(one, other)


def test_the_summary_and_the_table_count_what_can_move(planted):
    done = rebasin(*ALIGN, "-v", cwd=planted)
    assert "3 of 3 groups moved" in done.err
    table = done.err.split("gain", 1)[1]
    assert "qk" in table and "head" not in table


def test_the_permutation_file_holds_the_identity_and_undoes_itself(planted):
    rebasin(*ALIGN, "--save-permutation", PERM, cwd=planted)
    with safe_open(planted / PERM, "pt") as file:
        assert file.get_tensor("head").tolist() == [0, 1, 2, 3]
        assert json.loads(file.metadata()["rebasin.groups"])["head"]["fixed"] is True
    done = rebasin("apply", PERM, "b.safetensors", "-o", "c.safetensors", cwd=planted)
    assert "3 of 3 groups moved" in done.err
    rebasin("apply", PERM, "c.safetensors", "--inverse", "-o", "d.safetensors", cwd=planted)
    states = {name: load(planted / f"{name}.safetensors") for name in "abcd"}
    assert same(states["a"], states["c"])
    assert same(states["b"], states["d"])


def test_a_permutation_file_that_moves_a_fixed_group_is_refused(planted):
    rebasin(*ALIGN, "--save-permutation", PERM, cwd=planted)
    with safe_open(planted / PERM, "pt") as file:
        metadata = file.metadata()
    wrong = load_file(planted / PERM) | {"head": torch.tensor([1, 0, 2, 3], dtype=torch.int32)}
    save_file(wrong, planted / PERM, metadata)
    done = rebasin("apply", PERM, "b.safetensors", cwd=planted)
    assert done.code == 3
    assert "group 'head': it is fixed by the spec, but this file moves it" in done.err


def test_a_spec_check_says_what_is_fixed(planted):
    done = rebasin("spec", "check", "own.yaml", "a.safetensors", cwd=planted)
    assert "4 groups, 1 of them fixed" in done.err
    lines = {line.split("\t")[0]: line.split("\t")[1] for line in done.lines}
    assert lines == {"stream": "12", "head": "4 fixed", "qk": "5 per head", "vo": "5 per head"}
    found = rebasin("spec", "check", "own.yaml", "a.safetensors", "--json", cwd=planted).events[0]
    assert [g["name"] for g in found["groups"] if g["fixed"]] == ["head"]


def test_a_plan_says_what_is_fixed(planted):
    plan = json.loads(rebasin(*ALIGN, "--dry-run", cwd=planted).out)
    assert [g["name"] for g in plan["groups"] if g["fixed"]] == ["head"]


def test_merged_models_keep_their_heads_in_place(planted):
    save(planted / "b.safetensors", near(load(planted / "b.safetensors"), 3))
    argv = ("merge", "a.safetensors", "b.safetensors", "--spec", "own.yaml", "-o", "m.safetensors")
    assert rebasin(*argv, cwd=planted).code == 0
    one, merged = load(planted / "a.safetensors"), load(planted / "m.safetensors")
    assert all(torch.allclose(one[name], merged[name], atol=0.2) for name in one)


def test_heads_in_another_order_are_no_permutation_where_they_are_fixed(planted):
    state = load(planted / "a.safetensors")
    order = torch.tensor([1, 0, 2, 3])
    dims = torch.arange(4 * 15).reshape(4, 15)[order].flatten()
    state |= {name: state[name][dims].contiguous() for name in ("qkv.weight", "qkv.bias")}
    columns = torch.arange(4 * 5).reshape(4, 5)[order].flatten()
    state["dense.weight"] = state["dense.weight"][:, columns].contiguous()
    save(planted / "b.safetensors", state)
    argv = ("verify", "a.safetensors", "b.safetensors", "--spec")
    assert rebasin(*argv, "own.yaml", cwd=planted).code == 1
    text = (planted / "own.yaml").read_text()
    (planted / "free.yaml").write_text(text.replace(", fixed: true", ""))
    assert rebasin(*argv, "free.yaml", cwd=planted).code == 0


def test_a_fixed_group_is_the_identity_in_every_proof(planted):
    bound = bind(
        load_spec(str(planted / "own.yaml")), infos(InMemory(load(planted / "a.safetensors")))
    )
    assert all(draw(bound, seed)["head"] == identity((4,)) for seed in range(3))
