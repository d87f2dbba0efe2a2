"""The automatic choice of a spec, among libraries made for the purpose."""

import json
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.alignment.aligned import align_by_weights
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.commands.lerp.command import LerpRequest
from rebasin_cli.errors import SpecError, UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec import library
from rebasin_cli.spec.binding.bind import bind, uncovered_tensors
from rebasin_cli.spec.library import bundled_names, load_spec
from rebasin_cli.spec_choice.bundled import NEAREST, bundled_verdicts
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.tensors import infos

MLP = {"in.weight": (8, 3), "in.bias": (8,), "out.weight": (2, 8)}
CHAIN = ["in.weight: [h, ~]", "in.bias: [h]", "out.weight: [~, h]"]
HEADS = {"qkv": (24, 5), "out": (5, 24), "slopes": (4, 1)}
HEAD_LINES = ["qkv: ['head * d', ~]", "out: [~, 'head * d']", "slopes: [head, ~]"]
HEAD_GROUPS = "groups: {head: {size: 4, fixed: true}, d: {per: head}}\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Return a function that puts a spec on the shelf of the bundled ones, which is empty."""
    folder = tmp_path / "specs"
    folder.mkdir()
    monkeypatch.setattr(library, "_folder", lambda: folder)

    def put(name, lines, head=""):
        tensors = "".join(f"  {line}\n" for line in lines)
        (folder / f"{name}.yaml").write_text(f"rebasin: 1\n{head}tensors:\n{tensors}")

    return put


@contextmanager
def checkpoint(folder, shapes):
    path = folder / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with open_checkpoint(path, key=None) as opened:
        yield opened


def chosen(folder, shapes, **options):
    with checkpoint(folder, shapes) as opened:
        return choose_spec([opened], Selection(**options))


def refusal(folder, shapes):
    with pytest.raises(UsageError) as caught:
        chosen(folder, shapes)
    (problem,) = caught.value.problems
    return problem


def test_the_only_spec_that_fits_is_chosen(tmp_path, shelf):
    shelf("chain", CHAIN)
    shelf("longer", [*CHAIN, "more.weight: [h]"])
    shelf("shorter", CHAIN[:1] + CHAIN[2:])
    shelf("wider", [*CHAIN[:2], 'out.weight: [~, "h * 2"]'])
    choice = chosen(tmp_path, MLP)
    assert (choice.name, choice.automatic, choice.alike) == ("chain", True, ())
    with checkpoint(tmp_path, MLP) as opened:
        assert bundled_verdicts(headers_of([opened]), Selection()) == {
            "chain": "fits",
            "longer": "pattern 'more.weight' matches no tensor",
            "shorter": "leaves 1 tensor uncovered, such as in.bias",
            "wider": "'h * 2' does not fit",
        }


def test_what_holds_no_units_is_passed_as_the_hint_says(tmp_path, shelf):
    shelf("chain", CHAIN)
    hint = refusal(tmp_path, MLP | {"scale[x]": (3,)}).hint
    glob = hint.removeprefix("with --pass-through '").partition("' chain fits; or --model")[0]
    assert chosen(tmp_path, MLP | {"scale[x]": (3,)}, pass_through=[glob]).name == "chain"
    assert "--pass-through" not in refusal(tmp_path, MLP | {"could.hold": (8,)}).hint


def test_of_specs_that_say_the_same_the_first_is_chosen(tmp_path, shelf):
    shelf("b", CHAIN)
    shelf("a", ["in.{weight,bias}: [units]", "out.weight: [~, units]"])
    shelf("c", ["in.{weight,bias}: [h]", "out.weight: [~, h]", "norm?: [h]"])
    choice = chosen(tmp_path, MLP)
    assert (choice.name, choice.alike) == ("a", ("b", "c"))
    assert list(choice.bound.groups) == ["units"]


def test_what_aligns_tells_of_all_specs_that_say_the_same(tmp_path, shelf):
    shelf("a", CHAIN)
    shelf("b", CHAIN)
    request = LerpRequest(models=())
    with checkpoint(tmp_path, MLP) as opened:
        choice = choose_spec([opened], request.selection)
        machine = plan_machine(request.computing, request.search)
        found = align_by_weights((opened, opened), choice, machine, request)
    assert (found.spec, found.alike) == ("a", ("b",))


def test_specs_that_say_something_else_are_an_error(tmp_path, shelf):
    shelf("a", CHAIN)
    shelf("b", CHAIN)
    shelf("fixed", ["in.weight: [~, ~]", "in.bias: [~]", "out.weight: [~, ~]"])
    problem = refusal(tmp_path, MLP)
    assert problem.what == "several bundled specs fit: a, b, fixed"
    assert problem.hint == "name one with --spec"
    assert chosen(tmp_path, MLP, spec="fixed").bound.groups == {}


def test_an_optional_tensor_fits_with_and_without(tmp_path, shelf):
    shelf("chain", [*CHAIN, "norm.weight?: [h]"])
    assert chosen(tmp_path, MLP).name == "chain"
    assert chosen(tmp_path, MLP | {"norm.weight": (8,)}).name == "chain"


def every_problem(opened):
    """Return how many problems each bundled spec has, all of them bound, in their order."""
    shapes, found = infos(opened), {}
    for name in bundled_names():
        try:
            found[name] = len(uncovered_tensors(bind(load_spec(name), shapes), shapes))
        except SpecError as error:
            found[name] = len(error.problems)
    return found


def test_the_nearest_specs_are_listed_as_if_all_had_been_bound(tmp_path, shelf):
    shelf("a-sizes", ["in.weight: [h, 4]", "in.bias: [h, ~]", "out.weight: [1, 'h * 3']"])
    shelf("b-absent", [*CHAIN, "x: [~]"])
    shelf("c-absent", [*CHAIN, "x: [~]", "y: [~]"])
    shelf("d-uncovered", ["out.weight: [~, ~]"])
    shelf("e-absent", [*CHAIN, "x: [~]", "y: [~]", "z: [~]"])
    shelf("f-far", [f"{k}.x: [~]" for k in range(9)])
    shelf("g-far", [f"{k}.y: [~]" for k in range(5)])
    shelf("h-absent", [*CHAIN, "x.{i}: [g]", "y: [~]"])
    shelf("i-one-sided", [*CHAIN[:2], "out.weight: [~, ~]"])
    with checkpoint(tmp_path, MLP) as opened:
        counts = every_problem(opened)
    nearest = sorted(counts, key=lambda name: counts[name])[:NEAREST]
    problem = refusal(tmp_path, MLP)
    *listed, rest = problem.detail.splitlines()
    assert [line.split(":")[0].strip() for line in listed] == nearest
    assert rest == f"  and {len(counts) - NEAREST} others, further off"
    assert "  b-absent: pattern 'x' matches no tensor" in listed
    assert problem.hint.startswith("--model file.py:Class")  # nobody edits a bundled spec


def test_a_size_that_is_missing_is_told_without_the_specs_that_are_far(tmp_path, shelf):
    sizes = "sizes: {heads: config.heads}\n"
    shelf("heads", HEAD_LINES, sizes + HEAD_GROUPS.replace("4", "heads"))
    shelf("far", CHAIN)
    problem = refusal(tmp_path, HEADS)
    assert problem.what == "no bundled spec fits this checkpoint as it is"
    assert problem.detail == "  heads: the size 'heads' is not available"
    assert problem.hint == "heads: --set heads=N"


# fixed groups, --only and --skip


def heads(tmp_path, shelf, head=HEAD_GROUPS, **options):
    shelf("heads", HEAD_LINES, head)
    choice = chosen(tmp_path, HEADS, **options)
    return choice.movable, choice.whole


def test_what_is_inside_a_fixed_group_moves_under_its_root(tmp_path, shelf):
    assert heads(tmp_path, shelf) == ({"head"}, True)


def test_leaving_out_a_tensor_that_only_fixed_groups_have_holds_nothing(tmp_path, shelf):
    assert heads(tmp_path, shelf, skip=("slopes",)) == ({"head"}, True)
    free = HEAD_GROUPS.replace(", fixed: true", "")
    assert heads(tmp_path, shelf, free, skip=("slopes",)) == (set(), False)


def test_leaving_out_a_tensor_that_a_child_has_holds_the_family(tmp_path, shelf):
    assert heads(tmp_path, shelf, skip=("out",)) == (set(), False)


def test_a_group_that_is_fixed_and_has_no_children_is_no_part_of_the_whole(tmp_path, shelf):
    still = "groups: {head: {size: 4, fixed: true}, d: {per: head, fixed: true}}\n"
    assert heads(tmp_path, shelf, still) == (set(), True)


@pytest.mark.parametrize(
    ("library", "config"),
    [
        ("transformers", {"architectures": ["NetForCausalLM"]}),
        ("diffusers", {"_class_name": "NetForCausalLM"}),
    ],
)
def test_a_config_whose_library_is_missing_says_which(tmp_path, monkeypatch, library, config):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    (tmp_path / "config.json").write_text(json.dumps(config))
    hint = f"pip install {library}: then NetForCausalLM of its config.json is traced"
    assert refusal(tmp_path, {"x": (3,)}).hint == hint


@pytest.mark.parametrize("config", [{"architectures": []}, {"architectures": [3]}, {"heads": 2}])
def test_a_config_that_names_no_class_is_not_traced(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refusal(tmp_path, {"x": (3,)}).what == "no bundled spec fits this checkpoint"


def test_a_bundled_spec_of_another_model_is_one_sentence(tmp_path, shelf):
    shelf("other", ["a.weight: [h, ~]", "b.weight: [~, h]", "c.bias?: [h]"])
    shelf("near", ["in.weight: [h, ~]", "b.weight: [~, h]"])
    said = {}
    for name in ("other", "near"):
        with pytest.raises(SpecError) as raised:
            chosen(tmp_path, MLP, spec=name)
        said[name] = [problem.what for problem in raised.value.problems]
    assert said["other"] == ["spec 'other' names no tensor of this model"]
    assert "pattern 'b.weight' matches no tensor" in said["near"]
    mine = tmp_path / "mine.yaml"  # a spec with wrong names: each of them is told
    mine.write_text("rebasin: 1\ntensors:\n  on.weight: [h, ~]\n  out.weights: [~, h]\n")
    with pytest.raises(SpecError, match=r"did you mean 'in.weight'(?s:.*)mean 'out.weight'"):
        chosen(tmp_path, MLP, spec=str(mine))
