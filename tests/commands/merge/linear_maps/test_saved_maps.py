"""--save-maps and --save-parents: what a merge made of its models, in files that can be used."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import rebasin_cli as rb
from tests.cli.build import load, mlp, save
from tests.cli.harness import rebasin
from tests.commands.merge.linear_maps.test_linear_maps import MEANS, answers, folder

FILES = ("a.safetensors", "b.safetensors")


@pytest.mark.parametrize("method", ["zipit", pytest.param("cca", marks=pytest.mark.slow)])
def test_saved_maps_make_the_merged_model_of_its_parents(tmp_path, method):
    folder(tmp_path, mlp(0), mlp(1))
    argv = ("merge", *FILES, "--method", method, *MEANS, "--save-maps", "maps.safetensors")
    done = rebasin(*argv, "--save-parents", "parents", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["merged.safetensors"]), done.err
    assert "maps of every model: maps.safetensors" in done.err
    assert "2 models in the order that they were merged in: parents" in done.err
    maps = rb.load_maps(tmp_path / "maps.safetensors")
    assert len(maps) == 2
    states = [load(tmp_path / name) for name in FILES]
    mapped = [maps.apply(state, number) for number, state in enumerate(states)]
    merged = load(tmp_path / "merged.safetensors")
    for name, tensor in merged.items():
        mean = (mapped[0][name].double() + mapped[1][name].double()) / 2
        torch.testing.assert_close(mean.float(), tensor, rtol=1e-6, atol=1e-7)
    late = maps.apply(str(tmp_path / FILES[1]), 1)
    assert all(torch.equal(late.load(name), mapped[1][name]) for name in merged)
    parents = [load(tmp_path / "parents" / f"{name}.aligned.safetensors") for name in "ab"]
    for state, parent in zip(states, parents, strict=True):
        assert torch.allclose(answers(parent), answers(state), atol=1e-6)
    assert not torch.equal(parents[1]["0.weight"], states[1]["0.weight"])


def test_the_file_says_what_it_is(tmp_path):
    folder(tmp_path, mlp(0), mlp(1))
    argv = ("merge", *FILES, "--method", "zipit", *MEANS, "--save-maps", "maps.safetensors")
    (event, *_) = rebasin(*argv, "--json", cwd=tmp_path).events
    assert (event["maps"], event["parents"]) == ("maps.safetensors", [])
    with safe_open(tmp_path / "maps.safetensors", "pt") as file:
        metadata = file.metadata()
        names = sorted(file.keys())
    assert metadata["rebasin.symmetry"] == "linear"
    assert len(json.loads(metadata["rebasin.models"])) == 2
    group = event["mapped"][0]
    assert {f"{k}.{group}.{end}" for k in (1, 2) for end in ("order", "read", "write")} <= {*names}
    done = rebasin("apply", "maps.safetensors", "a.safetensors", cwd=tmp_path)
    assert done.code == 3
    assert "its maps are linear, and keep no model's function" in done.err
    with pytest.raises(rb.RebasinError, match="does not fit"):
        rb.load_maps(tmp_path / "maps.safetensors").apply({"w": torch.ones(2, 2)}, 0)


def test_a_file_of_another_kind_has_no_maps(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(rb.RebasinError, match="no file of linear maps"):
        rb.load_maps(tmp_path / "x.safetensors")


def test_saved_parents_of_a_merge_by_permutations_average_to_it(tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.safetensors", mlp(seed))
    three = (*FILES, "c.safetensors")
    done = rebasin("merge", *three, "--save-parents", "kept", "--json", cwd=tmp_path)
    (event, _) = done.events
    assert event["parents"] == [f"kept/{name}.aligned.safetensors" for name in "abc"]
    again = ("merge", *event["parents"], "-o", "again.safetensors", "--json")
    (second, _) = rebasin(*again, cwd=tmp_path).events
    assert "one basin already" in second["reason"]
    merged, found = load(tmp_path / "merged.safetensors"), load(tmp_path / "again.safetensors")
    assert all(torch.equal(merged[name], found[name]) for name in merged)
    done = rebasin("verify", "b.safetensors", "kept/b.aligned.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--save-maps", "m.safetensors"), "--save-maps is for --method zipit or cca"),
        (
            ("--save-parents", "p", "--symmetry", "orthogonal"),
            "--save-parents is for a merge by permutations",
        ),
        (("--method", "zipit", *MEANS, "--save-maps", "m.pt"), "would be a safetensors file"),
        (("--method", "zipit", *MEANS, "--save-maps", "a.safetensors"), "is one of the inputs"),
        (("--save-parents", "no/where"), "does not exist"),
    ],
)
def test_what_cannot_be_saved_is_said_before_any_work(tmp_path, argv, message):
    folder(tmp_path, mlp(0), mlp(1))
    done = rebasin("merge", *FILES, *argv, cwd=tmp_path)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (tmp_path / "merged.safetensors").exists()
