"""What `--dry-run` says of memory: from headers, by what is held at once."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.alignment.estimate import estimate_memory
from rebasin_cli.commands.lerp.command import LerpRequest
from rebasin_cli.commands.lerp.plan import plan_lerp
from rebasin_cli.options.machine import Machine
from rebasin_cli.options.search import Search
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import TensorInfo
from tests.benchmarks.bed.rotated_llamas import Llama
from tests.cli.build import save
from tests.cli.harness import rebasin

MB, GB = 10**6, 10**9
SIZE = 4 * MB  # of a model, nearly all of it one tensor
NAMES = tuple(f"{letter}.safetensors" for letter in "abcde")
SEARCH = Search()
INFERRED = ("--spec", "mlp", "--effort", "quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(seed)
        wide = torch.randn(100, 10_000, generator=generator)
        last = torch.randn(2, 100, generator=generator)
        save(made / name, {"layers.0.weight": wide, "layers.1.weight": last})
    return made


def planned(folder, *argv):
    return json.loads(rebasin(*argv, "--dry-run", "--json", cwd=folder).out)["memory"]


def test_averaging_takes_the_same_for_any_number_of_models(folder):
    two, five = (
        planned(folder, "merge", *NAMES[:count], "--strategy", "none", "-o", "x.safetensors")
        for count in (2, 5)
    )
    assert two == five
    assert planned(folder, "merge", *NAMES, "--strategy", "none", "-o", "x.pt") > two + SIZE


def test_a_line_holds_its_ends_where_they_fit_and_more_than_one_point_wants_them(folder):
    line = ("lerp", *NAMES[:2], "-o", "x{alpha}.safetensors", "--steps")
    held, read = (planned(folder, *line, "3", "--max-memory", room) for room in ("1GB", "1MB"))
    assert read < held - 2 * SIZE + MB
    assert planned(folder, *line, "1") == read
    slerp = planned(folder, *line, "3", "--mode", "slerp")
    assert slerp > held + 20 * MB  # three arrays in float64


def test_a_line_of_aligned_models_is_reordered_after_what_matching_takes(folder):
    line = ("lerp", *NAMES[:2], "--at", "0.5", "-o", "x.safetensors")
    aligned = planned(folder, *line, *INFERRED, "--align")
    # of the first model; of the second as it was, as it becomes, and reordered along its axis
    assert aligned == planned(folder, *line) + 4 * SIZE
    plan = plan_lerp(LerpRequest([folder / name for name in NAMES[:2]], at=[0.5]))
    assert plan.memory(GB) == GB > plan.memory()


def test_a_merge_of_aligned_models_sums_what_is_reordered_as_it_is_read(folder):
    merge = ("merge", *NAMES[:2], *INFERRED, "-o")
    found = planned(folder, *merge, "x.safetensors")
    assert 6 * SIZE < found < 6 * SIZE + 16 * MB  # a sum in float64, and as of a line
    assert planned(folder, *merge, "x.pt") > found + SIZE - MB


def test_what_is_written_counts_in_its_own_dtype_and_takes_all_of_a_torch_file(folder):
    line = ("lerp", *NAMES[:2], "--at", "0.5", "-o")
    whole, half = (planned(folder, *line, "x.pt", *to) for to in ((), ("--dtype", "float16")))
    assert whole - half == pytest.approx(SIZE / 2, rel=0.01)
    tight = ("align", *NAMES[:2], *INFERRED, "--max-memory", "1MB", "-o")
    written = [planned(folder, *tight, f"x.{ending}") for ending in ("safetensors", "pt")]
    assert written[1] > written[0] + SIZE


def test_a_torch_file_is_read_in_whole_tensors(folder):
    for name in NAMES[:2]:
        torch.save(load_file(folder / name), (folder / name).with_suffix(".pt"))
    made = ("--at", "0.5", "-o", "x.safetensors")
    ranges, whole = (
        planned(folder, "lerp", f"a.{ending}", f"b.{ending}", *made, *to)
        for ending, to in (("safetensors", ()), ("pt", ("--format", "safetensors")))
    )
    assert whole == ranges + 3 * SIZE  # both, and a share of one


def test_models_in_float64_take_twice_as_much(folder):
    for name in NAMES[:2]:
        doubled = {n: t.double() for n, t in load_file(folder / name).items()}
        save(folder / f"wide-{name}", doubled)
    for command in ("align", "diff"):
        narrow, wide = (
            planned(folder, command, *(f"{kind}{name}" for name in NAMES[:2]), *INFERRED[:2])
            for kind in ("", "wide-")
        )
        assert wide > narrow + 2 * SIZE - MB, command


def test_a_walk_with_soft_permutations_counts_where_there_is_one(folder):
    align = ("align", *NAMES[:2], *INFERRED[:2])
    quick, default, asked, tight = (
        planned(folder, *align, *how)
        for how in (
            ("--effort", "quick"),
            (),
            ("--effort", "quick", "--method", "frank-wolfe"),
            ("--max-memory", "30MB"),  # where there is none
        )
    )
    assert default == asked > quick + 4 * SIZE
    assert tight < quick + SIZE
    three = ("merge", *NAMES[:3], *INFERRED, "--strategy")
    assert planned(folder, *three, "universe") > asked + 6 * SIZE > planned(folder, *three, "many")


def test_applying_takes_a_tensor_and_a_torch_file_all_of_them(folder):
    saving = ("--effort", "quick", "-o", "y.safetensors", "--save-permutation", "p.safetensors")
    rebasin("align", *NAMES[:2], *INFERRED, *saving, cwd=folder)
    apply = ("apply", "p.safetensors", NAMES[1])
    streamed = planned(folder, *apply, "-o", "x.safetensors")
    assert streamed + SIZE < planned(folder, *apply, "-o", "x.pt")


@pytest.fixture(scope="module")
def tiny_llama():
    """A llama of TinyLlama's width and vocabulary, with fewer layers; its header alone."""
    llama = Llama(2048, 6, 32000)
    infos = {n: TensorInfo(n, shape, llama.dtype) for n, shape in llama.shapes.items()}
    return SimpleNamespace(bound=bind(load_spec("llama"), infos, sizes={"kv": 4}), movable=None)


@pytest.mark.parametrize("jobs", [1, 2, 16])
@pytest.mark.parametrize("room", [2, 4, 6])
def test_matching_keeps_within_what_may_be_used(tiny_llama, room, jobs):
    assert (
        estimate_memory(tiny_llama, Machine("cpu", jobs, room * GB), SEARCH, ()) <= 1.1 * room * GB
    )


def test_with_enough_memory_both_models_are_held_in_float32(tiny_llama):
    elements = sum(torch.Size(t.shape).numel() for t in tiny_llama.bound.tensors)
    found = estimate_memory(tiny_llama, Machine("cpu", 1, 64 * GB), SEARCH, ())
    assert 2 * 4 * elements < found < 1.6 * 2 * 4 * elements
