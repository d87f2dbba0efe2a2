"""What is not a real number: complex weights, whole numbers, and what is kept of which model."""

import pytest
import torch

from tests.cli.build import load, mlp, save, shuffled
from tests.cli.harness import rebasin

A = {"w": torch.randn(4, 3), "steps": torch.tensor(3), "table": torch.arange(6)}
B = {"w": torch.randn(4, 3), "steps": torch.tensor(8), "table": torch.arange(6)}
NONE = ("--strategy", "none")


def pair(folder, a, b):
    save(folder / "a.safetensors", a)
    save(folder / "b.safetensors", b)
    return "a.safetensors", "b.safetensors"


@pytest.mark.parametrize(("alpha", "steps"), [("0.25", 3), ("0.5", 3), ("0.75", 8)])
def test_a_counter_is_that_of_the_nearer_model(tmp_path, alpha, steps):
    done = rebasin(
        "lerp", *pair(tmp_path, A, B), "--at", alpha, "-o", "m.safetensors", cwd=tmp_path
    )
    assert done.code == 0
    found = load(tmp_path / "m.safetensors")
    assert found["steps"] == steps
    assert torch.equal(found["table"], A["table"])


@pytest.mark.parametrize("command", [("lerp", "--at", "0.5"), ("merge", *NONE)])
def test_whole_numbers_that_differ_are_refused_all_of_them_named(tmp_path, command):
    more = {"mask": torch.tensor([True, False])}
    a, b = {**A, **more}, {**B, "table": torch.arange(6) + 1, "mask": ~more["mask"]}
    name, *rest = command
    done = rebasin(name, *pair(tmp_path, a, b), *rest, "-o", "m.safetensors", cwd=tmp_path)
    assert done.code == 3
    assert "table" in done.err
    assert "mask" in done.err
    assert not (tmp_path / "m.safetensors").exists()
    skip = "--skip", "table", "--skip", "mask"
    done = rebasin(
        name, "a.safetensors", "b.safetensors", *rest, *skip, "-o", "m.safetensors", cwd=tmp_path
    )
    assert done.code == 0
    assert torch.equal(load(tmp_path / "m.safetensors")["table"], a["table"])


@pytest.mark.parametrize("other", [torch.int8, torch.complex64])
@pytest.mark.parametrize("command", ["lerp", "merge", "align"])
def test_numbers_of_two_kinds_under_one_name_are_refused(tmp_path, command, other):
    a, b = mlp(0), mlp(1)
    b["0.weight"] = b["0.weight"].to(other)
    more = {"lerp": ["--at", "0.5"], "merge": NONE, "align": []}[command]
    done = rebasin(command, *pair(tmp_path, a, b), *more, "-o", "m.safetensors", cwd=tmp_path)
    assert done.code == 3
    assert "0.weight" in done.err


def test_a_model_of_weight_zero_is_not_read(tmp_path):
    broken = {**B, "w": B["w"] * float("nan")}
    done = rebasin("merge", *pair(tmp_path, A, broken), "-w", "1,0", *NONE, cwd=tmp_path)
    assert done.code == 0
    assert torch.equal(load(tmp_path / "merged.safetensors")["w"], A["w"])


def tied(seed):
    table = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    return {"emb": table, "out": table}


def untied(seed):
    return {name: tied(seed + k)["emb"] for k, name in enumerate(("emb", "out"))}


@pytest.mark.parametrize(("first", "second"), [(tied, untied), (untied, tied)])
@pytest.mark.parametrize("out", ["m.pt", "m.safetensors"])
def test_a_tie_that_one_model_has_becomes_two_tensors(tmp_path, first, second, out):
    a, b = first(0), second(5)
    save(tmp_path / "a.pt", a)
    save(tmp_path / "b.pt", b)
    assert rebasin("merge", "a.pt", "b.pt", *NONE, "-o", out, cwd=tmp_path).code == 0
    found = load(tmp_path / out)
    for name in a:
        assert torch.allclose(found[name], (a[name] + b[name]) / 2)


def test_a_tie_that_all_models_have_stays_one(tmp_path):
    for name, seed in (("a.pt", 0), ("b.pt", 5)):
        save(tmp_path / name, tied(seed))
    assert rebasin("merge", "a.pt", "b.pt", *NONE, cwd=tmp_path).code == 0
    found = torch.load(tmp_path / "merged.pt")
    assert found["emb"].data_ptr() == found["out"].data_ptr()


def test_a_tie_is_parted_where_only_one_name_is_averaged(tmp_path):
    for name, seed in (("a.pt", 0), ("b.pt", 5)):
        save(tmp_path / name, tied(seed))
    done = rebasin("merge", "a.pt", "b.pt", *NONE, "--skip", "out", cwd=tmp_path)
    assert done.code == 0
    found = load(tmp_path / "merged.pt")
    assert torch.equal(found["out"], tied(0)["out"])
    assert not torch.equal(found["emb"], found["out"])


def complex_mlp(seed):
    return {
        n: torch.complex(t, u)
        for (n, t), u in zip(mlp(seed).items(), mlp(seed + 9).values(), strict=True)
    }


def test_a_permuted_complex_model_is_found(tmp_path):
    model = complex_mlp(0)
    files = pair(tmp_path, model, shuffled(model))
    done = rebasin("align", *files, "-v", cwd=tmp_path)
    assert done.code == 0
    found = load(tmp_path / "b.aligned.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in model.items())
    assert rebasin("verify", *files, cwd=tmp_path).code == 0
    other = {**shuffled(model), "0.bias": shuffled(model)["0.bias"].conj().resolve_conj()}
    save(tmp_path / "b.safetensors", other)
    assert rebasin("verify", *files, cwd=tmp_path).code == 1


@pytest.mark.parametrize("strategy", ["many", "star", "universe", "sync"])
def test_complex_models_are_merged_as_pairs_of_reals(tmp_path, strategy):
    model = complex_mlp(1)
    files = pair(tmp_path, model, shuffled(model))
    assert rebasin("merge", *files, "--strategy", strategy, cwd=tmp_path).code == 0
    found = load(tmp_path / "merged.safetensors")
    assert all(torch.allclose(found[name], tensor) for name, tensor in model.items())


def test_a_dtype_for_real_weights_leaves_complex_ones_alone(tmp_path):
    files = pair(
        tmp_path,
        {"c": torch.randn(3, dtype=torch.complex64), "w": torch.randn(3)},
        {"c": torch.randn(3, dtype=torch.complex64), "w": torch.randn(3)},
    )
    assert rebasin("merge", *files, *NONE, "--dtype", "float16", cwd=tmp_path).code == 0
    found = load(tmp_path / "merged.safetensors")
    assert found["c"].dtype == torch.complex64
    assert found["w"].dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_smallest_complex_weights_go_by_their_length(tmp_path, dtype):
    weights = torch.tensor([[0.1 + 9j, 2 + 0j], [1 + 1j, 3j]], dtype=dtype)
    save(tmp_path / "a.pt", {"w": weights})
    assert rebasin("prune", "a.pt", "--sparsity", "0.5", cwd=tmp_path).code == 0
    kept = load(tmp_path / "a.pruned.pt")["w"] != 0
    assert kept.tolist() == [[True, False], [False, True]]


def test_complex_models_are_related(tmp_path):
    model = complex_mlp(0)
    tuned = {n: t + 0.01 * torch.randn(t.shape, dtype=t.dtype) for n, t in model.items()}
    done = rebasin("related", *pair(tmp_path, model, tuned), "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = done.events[0]
    assert found["relation"] == "related by training"
    assert 0 < found["distance"] < 0.1
