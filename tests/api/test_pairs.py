"""match, align, apply, verify: the same function in the form that was given, inputs untouched."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rebasin_cli as rb
from rebasin_cli.tensors import InMemory
from tests.api.nets import (
    Convolutions,
    computed,
    convolutions,
    copied,
    memories,
    mlp,
    pictures,
    same,
)
from tests.cli.harness import rebasin

EXACT = 1e-10  # relative, in float64: only the order of additions differs
NETS = {
    "bundled": (mlp(0), mlp(1), torch.randn(5, 6)),
    "traced": (convolutions(0), convolutions(1), pictures()),
}


@pytest.mark.parametrize("name", NETS)
def test_an_aligned_module_is_a_state_dict_of_the_same_function(name: str) -> None:
    a, b, x = NETS[name]
    found = rb.match(a, b)
    aligned = found.apply(b)
    before, after = computed(b, b.state_dict(), x), computed(b, aligned, x)
    assert found.distance.after < found.distance.before
    assert (after - before).abs().max() < EXACT * before.abs().max()
    assert list(aligned) == list(b.state_dict()) and not same(aligned, b.state_dict())


@pytest.mark.parametrize("name", NETS)
def test_the_inverse_undoes_bit_for_bit(name: str) -> None:
    a, b, _ = NETS[name]
    found = rb.match(a, b)
    assert same(found.apply(found.apply(b), inverse=True), b.state_dict())
    assert same(rb.apply(found, found.apply(b), inverse=True), b.state_dict())


def test_inputs_stay_as_they_are_and_share_no_memory_with_results() -> None:
    a, b = convolutions(0).train(), convolutions(1)
    b.head.weight.requires_grad_(False)
    before = copied(a), copied(b)
    modes = [m.training for net in (a, b) for m in net.modules()]
    aligned = rb.align(a, b, inputs=pictures())
    assert same(before[0], a.state_dict()) and same(before[1], b.state_dict())
    assert modes == [m.training for net in (a, b) for m in net.modules()]
    assert a.head.weight.requires_grad and not b.head.weight.requires_grad
    assert not memories(aligned) & memories(a.state_dict(), b.state_dict())
    assert not any(tensor.requires_grad for tensor in aligned.values())


def test_what_is_given_in_any_form_gives_the_same_permutations(tmp_path: Path) -> None:
    a, b = mlp(0).state_dict(), mlp(1).state_dict()
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    wanted = rb.match(a, b).permutations
    forms: list[tuple[Any, Any]] = [
        (mlp(0), mlp(1)),
        (InMemory(a), InMemory(b)),
        (tmp_path / "a.safetensors", str(tmp_path / "b.safetensors")),
        (rb.open(tmp_path / "a.safetensors"), dict(b)),
        ({n: nn.Parameter(t) for n, t in a.items()}, b),
    ]
    for first, other in forms:
        assert rb.match(first, other).permutations == wanted


def test_a_path_in_is_a_checkpoint_out_that_is_read_one_tensor_at_a_time(tmp_path: Path) -> None:
    class Counted(InMemory):
        loads = 0

        def load(self, name: str) -> Tensor:
            self.loads += 1
            return super().load(name)

    save_file(mlp(1).state_dict(), tmp_path / "b.safetensors")
    found = rb.match(mlp(0), mlp(1))
    late = found.apply(tmp_path / "b.safetensors")
    assert isinstance(late, rb.Checkpoint)
    assert same({n: late.load(n) for n in mlp(1).state_dict()}, found.apply(mlp(1)))
    source = Counted(mlp(1).state_dict())
    late = found.apply(source)
    assert source.loads == 0
    late.load("2.weight")
    assert source.loads == 1


def test_wrappers_and_names_are_kept_in_results() -> None:
    a, b = mlp(0), mlp(1)
    plain = rb.align(a, b)
    prefixed = {f"module.{name}": tensor for name, tensor in b.state_dict().items()}
    assert same(rb.align(a, prefixed), {f"module.{n}": t for n, t in plain.items()})
    assert same(rb.align(a, nn.DataParallel(b)), {f"module.{n}": t for n, t in plain.items()})
    compiled: Any = torch.compile(b)
    assert same(rb.align(a, compiled), {f"_orig_mod.{n}": t for n, t in plain.items()})


def test_a_wrapped_module_is_traced_as_what_it_wraps() -> None:
    a, b = convolutions(0), convolutions(1)
    plain = rb.align(a, b, inputs=pictures())
    wrapped: Any = torch.compile(b)
    found = rb.align(nn.DataParallel(a), wrapped, inputs=pictures())
    assert same(found, {f"_orig_mod.{name}": tensor for name, tensor in plain.items()})
    found = rb.align(a.state_dict(), b.state_dict(), model=nn.DataParallel(a))
    assert same(found, plain)


def test_a_renamed_model_is_applied_to_under_its_own_names() -> None:
    a = mlp(0).state_dict()
    b = {f"net.{n}".replace("0.", "first."): t for n, t in mlp(1).state_dict().items()}
    found = rb.match(a, b, rename=[r"2:^net\.first\.=0.", r"2:^net\.="])
    assert list(found.apply(b)) == list(b)
    assert found.permutations == rb.match(a, mlp(1)).permutations


def test_what_is_no_tensor_and_what_load_state_dict_reads_besides_is_kept() -> None:
    a: dict[str, Any] = {**mlp(0).state_dict(), "0._extra_state": {"scale": torch.ones(1)}}
    b: dict[str, Any] = {**mlp(1).state_dict(), "0._extra_state": {"scale": torch.zeros(1)}}
    aligned: dict[str, Any] = rb.align(a, b)
    assert aligned["0._extra_state"] == {"scale": torch.zeros(1)}
    assert aligned["0._extra_state"]["scale"] is not b["0._extra_state"]["scale"]
    versions: Any = rb.align(convolutions(0), convolutions(1))
    assert versions._metadata["body.1"] == {"version": 2}


def test_tied_tensors_come_back_tied() -> None:
    def tied(seed: int) -> dict[str, Tensor]:
        state = mlp(seed).state_dict()
        return {**state, "copy.weight": state["0.weight"]}

    found = rb.match(tied(0), tied(1), pass_through="copy.*", spec="mlp").apply(tied(1))
    assert found["copy.weight"].data_ptr() == found["0.weight"].data_ptr()
    assert torch.equal(found["0.weight"], rb.align(mlp(0), mlp(1))["0.weight"])


def test_dtypes_are_those_of_the_model() -> None:
    aligned = rb.align(mlp(0), mlp(1, torch.bfloat16))
    assert {tensor.dtype for tensor in aligned.values()} == {torch.bfloat16}


def test_verify_tells_a_reordered_model_from_another() -> None:
    a, b = mlp(0), mlp(1)
    assert rb.verify(b, rb.align(a, b))
    assert not rb.verify(a, b)


def test_a_permutation_file_does_what_the_matching_does(tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.match(a, b)
    rb.save(found, tmp_path / "p.safetensors")
    aligned = rb.apply(tmp_path / "p.safetensors", b)
    assert same(aligned, found.apply(b))
    assert same(rb.apply(str(tmp_path / "p.safetensors"), aligned, inverse=True), b.state_dict())
    with pytest.raises(rb.RebasinError, match="does not fit the model"):
        rb.apply(tmp_path / "p.safetensors", convolutions(0))


@pytest.mark.parametrize("form", ["state dict", "folder"])
def test_an_adapter_moves_with_its_model(form: str, tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    rb.save(rb.match(a, b), tmp_path / "p.safetensors")
    save_file(b.state_dict(), tmp_path / "b.safetensors")
    out, into = b.state_dict()["0.weight"].shape
    up, down = torch.randn(out, 2).double(), torch.randn(2, into).double()
    given: Any = {"0.lora_A.weight": down, "0.lora_B.weight": up}
    if form == "folder":
        (tmp_path / "lora").mkdir()
        save_file(given, tmp_path / "lora" / "adapter_model.safetensors")
        (tmp_path / "lora" / "adapter_config.json").write_text("{}")
        given = tmp_path / "lora"
    found = rb.apply(tmp_path / "p.safetensors", given, base=tmp_path / "b.safetensors")
    adapter = found if isinstance(found, dict) else {n: found.load(n) for n in found.names()}
    adapted = {**b.state_dict(), "0.weight": b.state_dict()["0.weight"] + up @ down}
    moved = rb.apply(tmp_path / "p.safetensors", b)["0.weight"]
    wanted = rb.apply(tmp_path / "p.safetensors", adapted)["0.weight"]
    made = moved + adapter["0.lora_B.weight"] @ adapter["0.lora_A.weight"]
    assert torch.allclose(made, wanted, rtol=0, atol=EXACT)
    assert not torch.equal(adapter["0.lora_B.weight"], up)


def test_a_search_starts_from_a_permutation_file(tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.match(a, b)
    rb.save(found, tmp_path / "p.safetensors")
    again = rb.match(a, b, start=str(tmp_path / "p.safetensors"))
    assert again.permutations == found.permutations


def test_a_matching_cannot_be_changed() -> None:
    found = rb.match(mlp(0), mlp(1))
    with pytest.raises(TypeError):
        found.permutations["hidden.0"] = found.permutations["hidden.2"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.choice = None  # type: ignore[misc, assignment]


def test_other_weights_of_the_same_shapes_follow() -> None:
    a, b = mlp(0), mlp(1)
    average = {name: tensor * 0.9 for name, tensor in b.state_dict().items()}
    found = rb.match(a, b)
    moved = {name: tensor * 0.9 for name, tensor in found.apply(b).items()}
    assert same(found.apply(average), moved)


def test_nothing_of_the_process_is_changed() -> None:
    a, b = convolutions(0), convolutions(1)
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    wanted = rb.match(a, b, inputs=pictures())
    assert rb.match(a, b, inputs=pictures()).permutations == wanted.permutations
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Loud(Convolutions):
        def forward(self, x: Tensor) -> Tensor:
            print("a pass")
            return super().forward(x)

    rb.align(Loud(), Loud(), inputs=pictures())
    rb.merge([mlp(0), mlp(1)])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_threads_may_match_at_once() -> None:
    a, b = convolutions(0), convolutions(1)
    wanted, stdout = rb.match(a, b, inputs=pictures()).permutations, sys.stdout
    start = threading.Barrier(4)

    def matched(_: int) -> object:
        start.wait()
        return rb.match(a, b, inputs=pictures()).permutations

    with ThreadPoolExecutor(4) as pool:
        assert all(found == wanted for found in pool.map(matched, range(4)))
    assert sys.stdout is stdout


def _without(name: str) -> dict[str, Tensor]:
    return {n: t for n, t in mlp(1).state_dict().items() if n != name}


def _with(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**mlp(1).state_dict(), name: tensor}


META = nn.Linear(2, 2, device="meta")
REFUSED: dict[str, tuple[object, dict[str, Any], type[Exception], str]] = {
    "a tensor is missing": (_without("0.bias"), {}, rb.RebasinError, "missing: 0.bias"),
    "sparse": (_with("4.bias", torch.zeros(3).to_sparse()), {}, rb.RebasinError, "is sparse"),
    "another shape": (_with("4.bias", torch.zeros(4)), {}, rb.RebasinError, r"is \[4\], expected"),
    "NaN": (_with("4.bias", torch.full((3,), torch.nan)), {}, rb.RebasinError, "holds NaN"),
    "whole numbers": (
        _with("4.bias", torch.zeros(3, dtype=torch.int64)),
        {},
        rb.RebasinError,
        "is int64, expected float32",
    ),
    "a number": (3, {}, TypeError, "model 2 is of type int"),
    "a list": ([1], {}, TypeError, "model 2 is of type list"),
    "no tensors": ({}, {}, rb.RebasinError, "no tensor in this state dict"),
    "arrays": ({"x": torch.zeros(3).numpy()}, {}, rb.RebasinError, "torch.from_numpy makes"),
    "nested": ({"model": mlp(1).state_dict()}, {}, rb.RebasinError, "its entry 'model' is one"),
    "names that are none": ({0: torch.zeros(3)}, {}, rb.RebasinError, "called 0, which is no text"),
    "no such file": ("none.safetensors", {}, rb.RebasinError, "no such file"),
    "no option": (mlp(1), {"sed": 1}, TypeError, "no option 'sed'; did you mean 'seed'"),
    "a text as number": (mlp(1), {"jobs": "x"}, TypeError, "jobs='x': expected int"),
    "a number below": (mlp(1), {"seed": -1}, rb.RebasinError, "seed=-1: expected a number from 0"),
    "a seed beyond": (mlp(1), {"seed": 2**63}, rb.RebasinError, "expected a number from 0 to 9"),
    "no memory": (mlp(1), {"max_memory": 0}, rb.RebasinError, "leaves no room"),
    "a switch": (mlp(1), {"restarts": True}, TypeError, "restarts=True: expected int"),
    "no size": (mlp(1), {"max_memory": "much"}, rb.RebasinError, "is not a size such as 8GB"),
    "no rename": (mlp(1), {"rename": "x"}, rb.RebasinError, "is not OLD=NEW"),
    "no method": (mlp(1), {"method": "x"}, rb.RebasinError, "no method is called 'x'"),
    "no spec": (mlp(1), {"spec": "lama"}, rb.RebasinError, "did you mean 'llama'"),
    "a number as spec": (mlp(1), {"spec": 3}, TypeError, "a int is no spec"),
    "two specs": (mlp(1), {"spec": "mlp", "model": mlp(0)}, rb.RebasinError, "exclude each other"),
    "no count": (mlp(1), {"sizes": {"h": "x"}}, TypeError, "'h' is 'x', and no whole number"),
    "no calls": (mlp(1), {"inputs": []}, rb.RebasinError, "no call of the model in the list"),
    "no network": (mlp(1), {"model": 3}, TypeError, "a int is no network"),
    "idle inputs": (mlp(1), {"spec": "mlp", "inputs": pictures()}, rb.RebasinError, "no network"),
    "no inputs": (mlp(1), {"inputs": 3}, TypeError, "a int is no call of a model"),
    "it does not run": (mlp(1), {"inputs": torch.ones(2, 7)}, rb.RebasinError, "does not run on"),
    "another network": (mlp(1), {"model": Convolutions}, rb.RebasinError, "are not those of"),
    "no shape yet": (nn.LazyLinear(2), {}, rb.RebasinError, "'weight' has no shape yet"),
    "no values": (mlp(1), {"model": META}, rb.RebasinError, "on the device 'meta'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_reason(case: str) -> None:
    other, options, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        rb.match(mlp(0), other, **options)  # type: ignore[arg-type]  # that is what is tested


def test_a_tensor_without_values_is_refused() -> None:
    empty = {name: tensor.to("meta") for name, tensor in mlp(1).state_dict().items()}
    with pytest.raises(rb.RebasinError, match="'meta': it has no values"):
        rb.align(mlp(0), empty)


def test_whole_numbers_tell_of_no_units() -> None:
    a, b = ({n: (9 * t).to(torch.int8) for n, t in mlp(k).state_dict().items()} for k in (0, 1))
    assert rb.match(a, b).status.value.startswith("nothing could be aligned: whole numbers")


def test_a_file_is_aligned_as_by_the_command(tmp_path: Path) -> None:
    save_file(mlp(0).state_dict(), tmp_path / "a.safetensors", {"format": "pt"})
    save_file(mlp(1).state_dict(), tmp_path / "b.safetensors", {"format": "pt", "note": "kept"})
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert rebasin("align", a, b, "-o", "by-command.safetensors", cwd=tmp_path).code == 0
    rb.save(rb.match(a, b).apply(b), tmp_path / "by-verb.safetensors")
    files = [tmp_path / f"by-{way}.safetensors" for way in ("command", "verb")]
    assert files[0].read_bytes() == files[1].read_bytes()
    found, wanted = load_file(files[1]), rb.align(mlp(0), mlp(1))
    assert same({name: found[name] for name in wanted}, wanted)
