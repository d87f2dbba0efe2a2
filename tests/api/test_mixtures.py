"""merge and lerp: means in the form, the dtypes and the order of the first model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import rebasin_cli as rb
from tests.api.nets import computed, convolutions, copied, memories, mlp, pictures, same
from tests.cli.harness import rebasin


def nets(count: int = 3) -> list[Any]:
    return [mlp(seed) for seed in range(count)]


@pytest.mark.parametrize("strategy", [None, "many", "universe", "star", "sync", "none"])
def test_models_that_are_one_but_for_their_order_have_it_as_their_mean(
    strategy: str | None,
) -> None:
    a = mlp(0)
    others = [rb.align(mlp(seed), a) for seed in (1, 2)]
    merged = rb.merge([a, *others], strategy=strategy, weights=[0.5, 0.3, 0.2])
    x = torch.randn(5, 6)
    before, after = computed(a, a.state_dict(), x), computed(a, merged, x)
    near = bool((after - before).abs().max() < 1e-5 * before.abs().max())
    assert near == (strategy != "none")


def test_a_mean_is_weighted_and_in_the_order_of_the_reference() -> None:
    a, b, c = nets()
    merged = rb.merge([a, b, c], weights=[2, 1, 1], strategy="star", ref=1)
    parts = rb.align(b, a), b.state_dict(), rb.align(b, c)
    for name, tensor in merged.items():
        wide = [part[name].double() for part in parts]
        wanted = 0.5 * wide[0] + 0.25 * wide[1] + 0.25 * wide[2]
        torch.testing.assert_close(tensor, wanted.float(), rtol=1e-6, atol=1e-7)


def test_models_may_come_one_by_one() -> None:
    assert same(rb.merge(net for net in nets(2)), rb.merge(nets(2)))


def test_a_mean_without_alignment_needs_no_spec() -> None:
    a, b = ({"x": torch.full((2,), value)} for value in (1.0, 3.0))
    assert rb.merge([a, b], strategy="none")["x"].tolist() == [2.0, 2.0]
    assert rb.lerp(a, b, 0.25)["x"].tolist() == [1.5, 1.5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_means_are_in_the_dtypes_of_the_first_model(dtype: torch.dtype) -> None:
    a, b = mlp(0, dtype), mlp(1)
    for found in (rb.merge([a, b]), rb.lerp(a, b, 0.5), rb.lerp(a, b, 1, align=True)):
        assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert {tensor.dtype for tensor in rb.merge([b, a]).values()} == {torch.float32}


def test_a_mean_that_its_dtype_cannot_hold_is_refused() -> None:
    a, b = ({"x": torch.tensor([value], dtype=torch.float16)} for value in (6e4, -6e4))
    with pytest.raises(rb.RebasinError, match="does not fit float16"):
        rb.lerp(a, b, -1)


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_the_ends_are_the_models_and_share_no_memory_with_them(mode: str) -> None:
    a, b = mlp(0), mlp(1)
    before = copied(a), copied(b)
    for alpha, end in ((0, a.state_dict()), (1, b.state_dict()), (1.0, b.state_dict())):
        found = rb.lerp(a, b, alpha, mode=mode)
        assert same(found, end)
        assert not memories(found) & memories(a.state_dict(), b.state_dict())
    assert same(rb.lerp(a, b, 1, mode=mode, align=True), rb.align(a, b))
    for weights, end in (([1, 0], a.state_dict()), ([0, 1], b.state_dict())):
        merged = rb.merge([a, b], weights=weights, strategy="none")
        assert same(merged, end) and not memories(merged) & memories(end)
    assert same(before[0], a.state_dict()) and same(before[1], b.state_dict())


@pytest.mark.parametrize(
    "alphas",
    [[0.25, 0.5], (0.25, 0.5), np.array([0.25, 0.5]), torch.tensor([0.25, 0.5])],
    ids=lambda value: type(value).__name__,
)
def test_several_places_give_a_list(alphas: Any) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.lerp(a, b, alphas, align=True)
    assert isinstance(found, list)
    aligned = rb.align(a, b)
    assert all(
        same(one, rb.lerp(a, aligned, at)) for one, at in zip(found, (0.25, 0.5), strict=True)
    )


@pytest.mark.parametrize("alpha", [0.5, np.float32(0.5), torch.tensor(0.5)], ids=type)
def test_a_number_of_any_library_is_one_place(alpha: Any) -> None:
    assert same(rb.lerp(mlp(0), mlp(1), alpha), rb.lerp(mlp(0), mlp(1), 0.5))


def test_tensors_are_tied_in_a_mean_if_they_are_in_every_model() -> None:
    def state(value: float, *, tied: bool) -> dict[str, Tensor]:
        first = torch.full((2,), value)
        return {"a": first, "b": first if tied else first + 2}

    both = rb.lerp(state(0.0, tied=True), state(4.0, tied=True), 0.5)
    assert both["a"].data_ptr() == both["b"].data_ptr()
    one = rb.lerp(state(0.0, tied=True), state(4.0, tied=False), 0.5)
    assert (one["a"].tolist(), one["b"].tolist()) == ([2, 2], [3, 3])


def test_weights_are_numbers_of_any_library(tmp_path: Path) -> None:
    save_file(mlp(0).state_dict(), tmp_path / "a.safetensors")
    models: list[Any] = [tmp_path / "a.safetensors", mlp(1)]
    several: list[Any] = [np.array([0.75, 0.25]), torch.tensor([3, 1])]
    for number, weights in enumerate(several):
        merged = rb.merge(models, weights=weights, strategy="none")
        rb.save(merged, tmp_path / f"{number}.safetensors")
        found = load_file(tmp_path / f"{number}.safetensors")
        wanted = rb.merge([mlp(0), mlp(1)], weights=[0.75, 0.25], strategy="none")
        assert same({name: found[name] for name in wanted}, wanted)


def test_a_path_among_the_models_makes_a_checkpoint(tmp_path: Path) -> None:
    save_file(mlp(0).state_dict(), tmp_path / "a.safetensors")
    merged = rb.merge([tmp_path / "a.safetensors", mlp(1)])
    assert isinstance(merged, rb.Checkpoint)
    assert same({n: merged.load(n) for n in mlp(0).state_dict()}, rb.merge(nets(2)))
    half = rb.merge([tmp_path / "a.safetensors", mlp(1, torch.bfloat16)], weights=[0, 1])
    assert {half.load(n).dtype for n in half.names()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_are_mixed_as_by_the_commands(tmp_path: Path, dtype: torch.dtype) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for seed, path in enumerate(paths):
        save_file(mlp(seed, dtype).state_dict(), path, {"format": "pt"})
    commands: dict[str, tuple[list[Any], Any]] = {
        "merge": ([*paths, "-w", "0.5,0.3,0.2"], rb.merge(paths, weights=[0.5, 0.3, 0.2], seed=3)),
        "lerp": (
            [*paths[:2], "--align", "--at", "0.3"],
            rb.lerp(paths[0], paths[1], 0.3, align=True, seed=3),
        ),
    }
    for verb, (arguments, found) in commands.items():
        rb.save(found, tmp_path / f"{verb}.safetensors", dtype="float32")
        out = tmp_path / f"{verb}-command.safetensors"
        done = rebasin(
            verb, *arguments, "--seed", "3", "--dtype", "float32", "-o", out, cwd=tmp_path
        )
        assert done.code == 0, done.err
        assert out.read_bytes() == (tmp_path / f"{verb}.safetensors").read_bytes()
        assert {t.dtype for t in load_file(out).values()} == {torch.float32}


def test_networks_that_are_traced_are_merged() -> None:
    a, b = convolutions(0), convolutions(1)
    merged = rb.merge([a, b], inputs=pictures())
    a.load_state_dict(merged, strict=True)
    assert merged["body.1.num_batches_tracked"].dtype == torch.int64


REFUSED: dict[str, tuple[object, dict[str, Any], type[Exception], str]] = {
    "one": ([mlp(0)], {}, rb.RebasinError, "at least two models: there are 1"),
    "none": ([], {}, rb.RebasinError, "at least two models: there are 0"),
    "a module": (mlp(0), {}, TypeError, "several, in a list"),
    "a path": ("ab.pt", {}, TypeError, "several, in a list"),
    "weights": (nets(2), {"weights": [1]}, rb.RebasinError, "1 weight for 2 models"),
    "texts": (nets(2), {"weights": ["a", "b"]}, TypeError, "weights=.*: expected a number"),
    "sum of zero": (nets(2), {"weights": [1, -1]}, rb.RebasinError, "add up to zero"),
    "strategy": (nets(2), {"strategy": "x"}, rb.RebasinError, "no strategy is called 'x'"),
    "sync method": (
        nets(2),
        {"strategy": "sync", "sync_method": "x"},
        rb.RebasinError,
        "no sync method is called 'x'",
    ),
    "sync method of none": (
        nets(2),
        {"sync_method": "nmf"},
        rb.RebasinError,
        "sync_method= reconciles pairs",
    ),
    "reference": (nets(2), {"ref": 2}, rb.RebasinError, "ref 2: there are 2 models"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_refused_with_the_reason(case: str) -> None:
    models, options, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        rb.merge(models, **options)  # type: ignore[call-overload]  # that is what is tested


@pytest.mark.parametrize(
    ("alpha", "options", "error", "text"),
    [
        ("0.5", {}, TypeError, "alpha='0.5': expected a number"),
        (None, {}, TypeError, "alpha=None: expected a number"),
        (float("nan"), {}, rb.RebasinError, "alpha nan: a place is a finite number"),
        (0.5, {"mode": "cubic"}, rb.RebasinError, "no mode is called 'cubic'"),
    ],
)
def test_what_is_no_place_is_refused_with_the_reason(
    alpha: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        rb.lerp(mlp(0), mlp(1), alpha, **options)
