"""Files hold more than weights: parts with the same tensors follow them, the rest is named."""

import pytest
import torch

from tests.cli.build import mlp, save
from tests.cli.harness import rebasin

FACTORS = {"state_dict": 1.0, "state_dict_ema": 1.5, "swa": 2.0}


def times(state, factor):
    return {name: tensor * factor for name, tensor in state.items()}


def training(seed, **more):
    """Return what a training run leaves: three sets of weights, each a multiple of the first."""
    weights = mlp(seed)
    return {
        "epoch": seed,
        "state_dict": weights,
        "state_dict_ema": times(weights, FACTORS["state_dict_ema"]),
        "swa": {
            "n_averaged": torch.tensor(4 + seed),
            **{f"module.{name}": t for name, t in times(weights, FACTORS["swa"]).items()},
        },
        "optimizer": {"state": {0: {"exp_avg": weights["0.weight"]}}},
        **more,
    }


def saved(folder, **more):
    torch.save(training(0, **more), folder / "a.pth")
    torch.save(training(1), folder / "b.pth")
    return "a.pth", "b.pth"


def assert_parts_follow(path):
    """Check that every part of a file is still the same multiple of its weights."""
    found = torch.load(path)
    for name, tensor in found["state_dict"].items():
        assert torch.allclose(found["state_dict_ema"][name], tensor * FACTORS["state_dict_ema"])
        assert torch.allclose(found["swa"][f"module.{name}"], tensor * FACTORS["swa"])
    return found


@pytest.mark.parametrize("command", ["align", "merge", "lerp"])
def test_parts_with_the_same_tensors_follow_the_weights(tmp_path, command):
    more = ("--steps", "1", "--align") if command == "lerp" else ()
    done = rebasin(command, *saved(tmp_path), *more, "-o", "out.pth", cwd=tmp_path)
    assert done.code == 0
    found = assert_parts_follow(tmp_path / "out.pth")
    before = training(1 if command == "align" else 0)
    assert not torch.equal(found["state_dict"]["0.weight"], before["state_dict"]["0.weight"])
    assert found["swa"]["n_averaged"] == before["swa"]["n_averaged"]
    assert found["epoch"] == before["epoch"]
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], before["state_dict"]["0.weight"])
    assert "state_dict_ema, swa" in done.err
    assert "stale: optimizer" in done.err


def test_a_permutation_file_moves_the_parts_and_its_inverse_brings_them_back(tmp_path):
    files = saved(tmp_path)
    assert rebasin("align", *files, "--save-permutation", "p.safetensors", cwd=tmp_path).code == 0
    assert rebasin("apply", "p.safetensors", "b.pth", "-o", "moved.pth", cwd=tmp_path).code == 0
    moved, aligned = (torch.load(tmp_path / name) for name in ("moved.pth", "b.aligned.pth"))
    for part in FACTORS:
        assert all(torch.equal(moved[part][name], t) for name, t in aligned[part].items())
    done = rebasin(
        "apply", "p.safetensors", "moved.pth", "--inverse", "-o", "back.pth", cwd=tmp_path
    )
    assert done.code == 0
    back, before = torch.load(tmp_path / "back.pth"), training(1)
    assert all(torch.equal(back["swa"][name], t) for name, t in before["swa"].items())


def test_programs_are_told_of_parts_and_of_what_is_stale(tmp_path):
    done = rebasin("merge", *saved(tmp_path, teacher=mlp(0)), "--json", cwd=tmp_path)
    (event, _) = done.events
    assert event["parts"] == ["state_dict_ema", "swa"]
    assert event["stale"] == ["optimizer"]
    assert event["dropped"] == ["teacher"]
    assert "teacher" not in torch.load(tmp_path / "merged.pth")


def test_only_the_part_that_is_asked_for_is_moved(tmp_path):
    files = saved(tmp_path)
    done = rebasin("align", *files, "--only-part", "state_dict_ema", "-o", "out.pth", cwd=tmp_path)
    assert done.code == 0
    assert "stale: state_dict, swa, optimizer" in done.err
    found, before = torch.load(tmp_path / "out.pth"), training(1)
    assert all(torch.equal(found["state_dict"][n], t) for n, t in before["state_dict"].items())
    assert not torch.equal(
        found["state_dict_ema"]["0.weight"], before["state_dict_ema"]["0.weight"]
    )


def test_nothing_but_weights_is_left_if_that_is_asked_for(tmp_path):
    done = rebasin("align", *saved(tmp_path), "--drop-rest", "-o", "out.pth", cwd=tmp_path)
    assert done.code == 0
    assert assert_parts_follow(tmp_path / "out.pth").keys() == FACTORS.keys()
    assert "left out: optimizer" in done.err


def test_a_format_without_parts_has_the_weights_alone(tmp_path):
    done = rebasin("align", *saved(tmp_path), "--format", "safetensors", cwd=tmp_path)
    assert done.code == 0
    assert "left out: state_dict_ema, swa, optimizer" in done.err


def test_pruned_weights_leave_all_other_parts_stale(tmp_path):
    saved(tmp_path)
    done = rebasin("prune", "a.pth", "--sparsity", "0.5", cwd=tmp_path)
    assert done.code == 0
    assert "stale: state_dict_ema, swa, optimizer" in done.err


def test_a_file_of_weights_alone_is_written_without_a_word_on_parts(tmp_path):
    for name, seed in (("a.pt", 0), ("b.pt", 1)):
        save(tmp_path / name, mlp(seed))
    done = rebasin("align", "a.pt", "b.pt", "--json", cwd=tmp_path)
    assert done.events[1]["parts"] == done.events[1]["stale"] == done.events[1]["dropped"] == []
    assert not any(word in done.err for word in ("stale", "left out", "follow"))


def test_the_ends_of_a_line_are_the_models_in_every_part(tmp_path):
    files = saved(tmp_path)
    assert rebasin("lerp", *files, "--at", "0,1", "-o", "line", cwd=tmp_path).code == 0
    for alpha, seed in (("0.000000", 0), ("1.000000", 1)):
        found, expected = torch.load(tmp_path / f"line/alpha-{alpha}.pth"), training(seed)
        for part in ("state_dict", "state_dict_ema"):
            assert all(torch.equal(found[part][name], t) for name, t in expected[part].items())


def test_a_part_that_is_smaller_in_another_model_is_left_out(tmp_path):
    a, b = training(0), training(1)
    del b["state_dict_ema"]["0.bias"]
    torch.save(a, tmp_path / "a.pth")
    torch.save(b, tmp_path / "b.pth")
    done = rebasin("merge", "a.pth", "b.pth", cwd=tmp_path)
    assert done.code == 0
    assert "left out: state_dict_ema" in done.err
    done = rebasin("merge", "b.pth", "a.pth", "-o", "other.pth", cwd=tmp_path)
    assert done.code == 0
    found = torch.load(tmp_path / "other.pth")
    assert "0.bias" not in found["state_dict_ema"]
    weight = found["state_dict"]["0.weight"] * FACTORS["state_dict_ema"]
    assert torch.allclose(found["state_dict_ema"]["0.weight"], weight)


def test_a_part_with_some_experts_only_is_refused(tmp_path):
    lines = ["router.weight: [expert, ~]", "experts.[e].weight: [expert, ~, ~]"]
    spec = "rebasin: 1\ntensors:\n" + "".join(f"  {line}\n" for line in lines)
    (tmp_path / "spec.yaml").write_text(spec)
    for name, seed in (("a.pt", 0), ("b.pt", 1)):
        generator = torch.Generator().manual_seed(seed)
        sizes = {"router.weight": (3, 5), **{f"experts.{e}.weight": (4, 4) for e in range(3)}}
        model = {n: torch.randn(*size, generator=generator) for n, size in sizes.items()}
        ema = {n: t for n, t in model.items() if n != "experts.1.weight"}
        torch.save({"model": model, "ema": ema}, tmp_path / name)
    done = rebasin("align", "a.pt", "b.pt", "--spec", "spec.yaml", cwd=tmp_path)
    assert done.code == 3
    assert "'ema' lacks 'experts.1.weight'" in done.err
    assert not (tmp_path / "b.aligned.pt").exists()


def test_inspect_tells_what_is_beside_the_weights(tmp_path):
    moments = {"state": {0: {"exp_avg": mlp(0)["0.weight"]}}, "param_groups": []}
    container = {"model": mlp(0), "ema": mlp(1), "optimizer": moments, "epoch": 3}
    torch.save(container, tmp_path / "a.pt")
    said = rebasin("inspect", "a.pt", cwd=tmp_path).lines
    assert "beside the weights, the same tensors: ema" in said
    assert "beside the weights, what belongs to these weights: optimizer" in said
    assert "beside the weights, other things: epoch" in said
    (event, _) = rebasin("inspect", "a.pt", "--json", cwd=tmp_path).events
    assert (event["parts"], event["stale"]) == (["ema"], ["optimizer"])
