"""`rebasin transport`: a difference carried to another base in another order."""

import json

import pytest
import torch
from safetensors import safe_open

from rebasin_cli.commands.transport.tensor_fates import TensorFates
from rebasin_cli.commands.transport.transported import CarriedFrame, Transported
from rebasin_cli.tensors import InMemory
from tests.cli.build import load, mlp, near, same, save, sharded, shuffled
from tests.cli.harness import rebasin

A, B, TUNED = "a.safetensors", "b.safetensors", "t.safetensors"
BASES = ("--from", A, "--to", B)


def write(folder, dtype=torch.float32):
    """Write two bases, one of them the other in another order, a fine-tune, and what it becomes."""
    a = {name: value.to(dtype) for name, value in mlp(1).items()}
    tuned = {name: value.to(dtype) for name, value in near(a, 5, 0.1).items()}
    tuned["0.weight"][0, 0] = 1e-20  # target + (tuned - origin) rounds it away
    save(folder / A, a)
    save(folder / B, shuffled(a, 3))
    save(folder / TUNED, tuned)
    return shuffled(tuned, 3)


def transported(folder, *argv, name="t.transported.safetensors"):
    done = rebasin("transport", TUNED, *BASES, *argv, cwd=folder)
    assert (done.code, done.lines) == (0, [name]), done.err
    return done


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_between_copies_in_another_order_the_result_is_the_fine_tune_in_that_order(tmp_path, dtype):
    want = write(tmp_path, dtype)
    done = transported(tmp_path)
    assert same(load(tmp_path / "t.transported.safetensors"), want)
    assert "8 tensors by the map permutation" in done.err
    assert "3 of 3 groups moved, spec mlp" in done.err


def test_a_key_counts_for_the_fine_tune_too(tmp_path):
    want = write(tmp_path)
    for name in "abt":
        held = load(tmp_path / f"{name}.safetensors")
        torch.save({"net": {"w": held}}, tmp_path / f"{name}.pt")
    bases = ("--from", "a.pt", "--to", "b.pt", "--key", "net.w")
    done = rebasin("transport", "t.pt", *bases, cwd=tmp_path)
    assert done.code == 0, done.err
    assert same(torch.load(tmp_path / "t.transported.pt")["net"]["w"], want)


@pytest.mark.parametrize(
    ("argv", "tuned"),
    [(("--scale", "0"), near(mlp(1), 5)), ((), mlp(1))],
    ids=("scale 0", "no change"),
)
def test_nothing_carried_is_the_target_to_the_byte(tmp_path, argv, tuned):
    write(tmp_path)
    save(tmp_path / TUNED, tuned)
    target = shuffled(near(mlp(1), 9), 3)
    target["0.bias"][0] = -0.0
    save(tmp_path / B, target)
    transported(tmp_path, *argv)
    found = load(tmp_path / "t.transported.safetensors")
    assert all(found[n].numpy().tobytes() == target[n].numpy().tobytes() for n in target)


def test_a_difference_alone_is_what_has_to_be_added(tmp_path):
    want = write(tmp_path, torch.float64)
    transported(tmp_path, "--as", "delta", "--scale", "0.5", name="t.delta.safetensors")
    delta, b = load(tmp_path / "t.delta.safetensors"), load(tmp_path / B)
    for name, value in b.items():
        assert torch.allclose(delta[name], (want[name] - value) / 2, rtol=0, atol=1e-14)


def test_a_head_for_other_classes_is_that_of_the_fine_tune_for_the_moved_units(tmp_path):
    want = write(tmp_path)
    tuned = load(tmp_path / TUNED)
    tuned |= {"6.weight": torch.randn(7, 9), "6.bias": torch.randn(7)}
    save(tmp_path / TUNED, tuned)
    done = transported(tmp_path)
    found = load(tmp_path / "t.transported.safetensors")
    order = [int((tuned["4.bias"] == x).nonzero()) for x in want["4.bias"]]
    assert torch.equal(found["6.weight"], tuned["6.weight"][:, order])
    assert torch.equal(found["6.bias"], tuned["6.bias"])
    assert all(torch.equal(found[n], want[n]) for n in want if not n.startswith("6."))
    assert f"those of {TUNED}, whole: 6.bias, 6.weight" in done.err


@pytest.mark.parametrize("kind", ["orthogonal", "layerwise"])
def test_another_head_is_carried_by_permutations_alone(tmp_path, kind):
    write(tmp_path)
    tuned = {**load(tmp_path / TUNED), "6.weight": torch.randn(7, 9), "6.bias": torch.randn(7)}
    save(tmp_path / TUNED, tuned)
    done = rebasin("transport", TUNED, *BASES, "--map", kind, cwd=tmp_path)
    assert done.code == 2
    assert f"'6.bias' of {TUNED} is not in {A}, or has another shape there" in done.err
    assert "--map permutation, or --skip '6.bias' --skip '6.weight'" in done.err


def test_a_new_tensor_that_may_hold_moved_units_is_refused_with_a_way_out(tmp_path):
    write(tmp_path)
    save(tmp_path / TUNED, {**load(tmp_path / TUNED), "score.weight": torch.randn(5, 9)})
    done = rebasin("transport", TUNED, *BASES, cwd=tmp_path)
    assert done.code == 3
    assert "'score.weight' is of the tuned model alone, and may hold units" in done.err
    assert "--skip 'score.weight'" in done.err
    transported(tmp_path, "--skip", "score.weight")


def test_the_result_has_the_form_of_the_target_and_says_where_it_is_from(tmp_path):
    want = write(tmp_path)
    (tmp_path / "b").mkdir()
    sharded(tmp_path / "b", load(tmp_path / B), {"model_type": "none"})
    argv = ("--to", "b", "--dtype", "float16", "-o", "out", "--json")
    done = rebasin("transport", TUNED, "--from", A, *argv, cwd=tmp_path)
    assert done.code == 0, done.err
    event = done.events[0]
    assert (event["map"], event["scale"], event["carried"]) == ("permutation", 1.0, 8)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert shards == [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    found = {n: v for name in shards for n, v in load(tmp_path / "out" / name).items()}
    assert same(found, {n: v.half() for n, v in want.items()})
    with safe_open(tmp_path / "out" / shards[0], "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert record["command"] == "transport"
    assert [one["name"] for one in record["inputs"]] == [TUNED, A, "b"]


def test_the_plan_says_what_will_be_done(tmp_path):
    write(tmp_path)
    done = rebasin("transport", TUNED, *BASES, "-n", cwd=tmp_path)
    plan = json.loads(done.out)
    assert (plan["map"], plan["scale"], plan["as"], plan["carried"]) == (
        "permutation",
        1.0,
        "model",
        8,
    )
    assert not (tmp_path / "t.transported.safetensors").exists()


def test_variances_stay_above_zero_and_counters_stay():
    target = {"n.running_var": torch.tensor([0.1, 2.0]), "n.count": torch.tensor([3, 4])}
    tuned = {"n.running_var": torch.tensor([0.5, 3.0]), "n.count": torch.tensor([9, 9])}
    origin = {"n.running_var": torch.tensor([4.0, 1.0]), "n.count": torch.tensor([1, 1])}
    frame = CarriedFrame(InMemory(target), InMemory(tuned), InMemory(origin))
    found = Transported(frame, TensorFates(frozenset(["n.running_var"]), {}), 1.0)
    assert found.load("n.running_var").float().tolist() == pytest.approx([0.1, 4.0])
    assert found.load("n.count").tolist() == [3, 4]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("--map", "rotate"), 2, "permutation, orthogonal, layerwise"),
        (("--as", "lora"), 2, "model, delta"),
        (("--scale", "much"), 2, "--scale much is neither a number nor auto"),
        (("--scale", "auto"), 2, "--model file.py:Class builds it"),
        (("--mask-gradients",), 2, "--model file.py:Class builds it"),
        (("--map", "layerwise"), 2, "--model file.py:Class builds it"),
        (("--map", "orthogonal"), 2, "allows nothing but permutations"),
        (("--from-model", "net.py:Net"), 2, "--from-model is of --map layerwise"),
        (("--tie", "keep"), 2, "--tie"),
        (("--in-place", "-o", TUNED, "--from", "none.safetensors"), 3, "no such file"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_do(tmp_path, argv, code, said):
    write(tmp_path)
    done = rebasin("transport", TUNED, *BASES, *argv, cwd=tmp_path)
    assert done.code == code, done.err
    assert said in done.err


def test_a_model_that_began_elsewhere_is_refused(tmp_path):
    write(tmp_path)
    save(tmp_path / TUNED, mlp(4, (6, 10, 13, 7, 4)))
    done = rebasin("transport", TUNED, *BASES, cwd=tmp_path)
    assert done.code == 3
    assert f"it is no fine-tune of {A}" in done.err


def write_adapter(folder):
    """Write a LoRA of two layers of the first base as peft does; return its factors."""
    generator = torch.Generator().manual_seed(7)
    base, lora = load(folder / A), {}
    for layer in ("2", "4"):
        out, into = base[f"{layer}.weight"].shape
        place = f"base_model.model.{layer}"
        lora[f"{place}.lora_A.weight"] = torch.randn(2, into, generator=generator)
        lora[f"{place}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    save(folder / "lora" / "adapter_model.safetensors", lora)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(config))
    return lora


def added(base, lora):
    """Return a base with the products of a LoRA in its weights."""
    merged = dict(base)
    for layer in ("2", "4"):
        down, up = (lora[f"base_model.model.{layer}.lora_{k}.weight"] for k in "AB")
        merged[f"{layer}.weight"] = base[f"{layer}.weight"] + up @ down
    return merged


def test_an_adapter_becomes_one_of_the_other_base(tmp_path):
    write(tmp_path)
    lora = write_adapter(tmp_path)
    done = rebasin("transport", "lora", *BASES, cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["lora.transported"]), done.err
    assert f"lora, an adapter of {A}, now one of {B}: 4 tensors" in done.err
    moved = load(tmp_path / "lora.transported" / "adapter_model.safetensors")
    assert (tmp_path / "lora.transported" / "adapter_config.json").exists()
    wanted = shuffled(added(load(tmp_path / A), lora), 3)
    found = added(load(tmp_path / B), moved)
    assert all(torch.allclose(found[n], wanted[n], atol=1e-5) for n in wanted)
    assert not torch.equal(
        moved["base_model.model.2.lora_B.weight"], lora["base_model.model.2.lora_B.weight"]
    )


@pytest.mark.parametrize(
    "argv", [("--map", "layerwise"), ("--scale", "0.5"), ("--mask-gradients",)]
)
def test_an_adapter_is_carried_whole_and_by_permutations_alone(tmp_path, argv):
    write(tmp_path)
    write_adapter(tmp_path)
    done = rebasin("transport", "lora", *BASES, *argv, cwd=tmp_path)
    assert done.code == 2
    assert "lora is an adapter: it is carried by permutations, whole" in done.err
