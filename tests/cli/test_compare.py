"""`apply`, `verify`, `diff`, `inspect` and the commands about specs: answers and exit codes."""

import json

import pytest
import torch

from tests.cli.broken import GOOD_SPEC
from tests.cli.build import load, mlp, near, pair, save, shuffled
from tests.cli.harness import image, rebasin

PERM = "p.safetensors"


def planted(folder):
    """Write a.pt and b.pt, the same model in another order."""
    save(folder / "a.pt", mlp(1))
    save(folder / "b.pt", shuffled(mlp(1)))


def with_permutation(folder):
    """Write a pair, the aligned b and its permutation."""
    pair(folder)
    argv = ("align", "a.safetensors", "b.safetensors", "--save-permutation", PERM)
    assert rebasin(*argv, cwd=folder).code == 0


def test_applying_gives_what_align_wrote(tmp_path):
    with_permutation(tmp_path)
    done = rebasin("apply", PERM, "b.safetensors", cwd=tmp_path)
    assert done.lines == ["b.permuted.safetensors"]
    applied, aligned = (load(tmp_path / f"b.{how}.safetensors") for how in ("permuted", "aligned"))
    assert all(torch.equal(applied[name], aligned[name]) for name in aligned)


def test_applying_and_undoing_gives_back_the_same_bytes(tmp_path):
    with_permutation(tmp_path)
    save(tmp_path / "b.pt", {name: tensor.half() for name, tensor in mlp(5).items()})
    rebasin("apply", PERM, "b.pt", "-o", "there.pt", cwd=tmp_path)
    rebasin("apply", PERM, "there.pt", "--inverse", "-o", "back.pt", cwd=tmp_path)
    rebasin("apply", PERM, "back.pt", "-o", "again.pt", cwd=tmp_path)
    there, again = ((tmp_path / f"{name}.pt").read_bytes() for name in ("there", "again"))
    assert there == again
    before, back = load(tmp_path / "b.pt"), load(tmp_path / "back.pt")
    assert all(torch.equal(before[name], back[name]) for name in before)
    assert not torch.equal(load(tmp_path / "there.pt")["2.weight"], before["2.weight"])


def test_a_permutation_is_a_yes_with_exit_code_0(tmp_path):
    planted(tmp_path)
    done = rebasin("verify", "a.pt", "b.pt", cwd=tmp_path)
    assert done.code == 0
    assert "b.pt is a.pt with its units reordered" in done.out


def test_a_verified_permutation_can_be_saved_and_applied(tmp_path):
    planted(tmp_path)
    rebasin("verify", "a.pt", "b.pt", "--save-permutation", PERM, cwd=tmp_path)
    rebasin("apply", PERM, "b.pt", "-o", "c.pt", cwd=tmp_path)
    assert rebasin("diff", "a.pt", "c.pt", cwd=tmp_path).code == 0


def test_equal_models_are_called_equal(tmp_path):
    planted(tmp_path)
    done = rebasin("verify", "a.pt", "a.pt", cwd=tmp_path)
    assert (done.code, done.out) == (0, "a.pt equals a.pt\n")


def test_one_changed_number_is_a_no_with_exit_code_1(tmp_path):
    planted(tmp_path)
    state = shuffled(mlp(1))
    state["4.bias"][2] += 1e-3
    save(tmp_path / "b.pt", state)
    done = rebasin("verify", "a.pt", "b.pt", cwd=tmp_path)
    assert done.code == 1
    assert "is not a permutation" in done.out
    assert "differs: 4.bias" in done.err


def test_equal_checkpoints_have_no_differences_and_exit_code_0(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    save(tmp_path / "b.safetensors", mlp(1))
    done = rebasin("diff", "a.pt", "b.safetensors", cwd=tmp_path)
    assert (done.code, done.out) == (0, "a.pt and b.safetensors are equal: 8 tensors\n")


def test_every_kind_of_difference_is_listed_with_exit_code_1(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    state = mlp(1)
    state["0.bias"] = state["0.bias"] + 1
    state["2.bias"] = state["2.bias"].double()
    state["4.bias"] = torch.zeros(3)
    state["new"] = state.pop("6.bias")
    save(tmp_path / "b.pt", state)
    done = rebasin("diff", "a.pt", "b.pt", "--json", cwd=tmp_path)
    kinds = {change["name"]: change["kind"] for change in done.events[0]["changes"]}
    assert kinds == {
        "0.bias": "values",
        "2.bias": "dtype",
        "4.bias": "shape",
        "6.bias": "only in A",
        "new": "only in B",
    }
    assert done.code == 1


def test_a_difference_that_is_skipped_does_not_count(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    save(tmp_path / "b.pt", {**mlp(1), "0.bias": torch.zeros(8)})
    assert rebasin("diff", "a.pt", "b.pt", "--skip", "0.*", cwd=tmp_path).code == 0
    assert rebasin("diff", "a.pt", "b.pt", "--only", "0.*", cwd=tmp_path).code == 1


def test_a_glob_that_names_no_tensor_is_no_success(tmp_path):
    planted(tmp_path)
    done = rebasin("diff", "a.pt", "b.pt", "--only", "encodr.*", cwd=tmp_path)
    assert done.code == 2
    assert "encodr.*" in done.err


def test_inspect_lists_tensors_and_the_spec_that_fits(tmp_path):
    pair(tmp_path)
    done = rebasin("inspect", "a.safetensors", cwd=tmp_path)
    assert "0.weight\tfloat32\t8x6" in done.lines
    assert done.lines[-1] == "spec: mlp"
    assert "8 tensors" in done.lines[-2]


def test_inspect_writes_nothing(tmp_path):
    pair(tmp_path)
    before = image(tmp_path)
    rebasin("inspect", "a.safetensors", "b.safetensors", "--json", cwd=tmp_path)
    assert image(tmp_path) == before


def test_a_valid_spec_that_fits_lists_its_groups_with_exit_code_0(tmp_path):
    pair(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD_SPEC)
    done = rebasin("spec", "check", "good.yaml", "a.safetensors", cwd=tmp_path)
    assert done.code == 0
    assert [line.split("\t")[:2] for line in done.lines] == [["h0", "8"], ["h1", "11"], ["h2", "9"]]


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_a_spec_with_mistakes_is_a_no_with_exit_code_1_and_all_of_them(tmp_path, flag):
    pair(tmp_path)
    (tmp_path / "bad.yaml").write_text(
        GOOD_SPEC.replace("6.bias", "6.bais").replace("h2]", "lone]")
    )
    done = rebasin("spec", "check", "bad.yaml", "a.safetensors", *flag, cwd=tmp_path)
    assert done.code == 1
    assert "bad.yaml:11:3: pattern '6.bais' matches no tensor" in done.err
    assert "'lone'" in done.err
    if flag:
        event = json.loads(done.lines[0])
        assert (event["valid"], event["code"]) == (False, 3)


def test_the_spec_that_init_prints_is_valid_for_its_model(tmp_path):
    pair(tmp_path)
    done = rebasin("spec", "init", "a.safetensors", cwd=tmp_path)
    (tmp_path / "new.yaml").write_text(done.out)
    again = rebasin("spec", "check", "new.yaml", "a.safetensors", "--strict", cwd=tmp_path)
    assert again.code == 0, again.err


def test_the_spec_that_show_prints_is_the_bundled_one(tmp_path):
    pair(tmp_path)
    (tmp_path / "copy.yaml").write_text(rebasin("spec", "show", "mlp", cwd=tmp_path).out)
    assert rebasin("spec", "check", "copy.yaml", "a.safetensors", cwd=tmp_path).code == 0


def test_the_list_of_specs_is_the_same_in_text_and_events(tmp_path):
    text = rebasin("spec", "list", cwd=tmp_path)
    names = [line.split("\t")[0] for line in text.lines]
    events = rebasin("spec", "list", "--json", cwd=tmp_path).events
    assert [event["name"] for event in events if event["event"] == "result"] == names
    assert "mlp" in names


def test_a_start_from_a_file_is_where_the_search_begins(tmp_path):
    with_permutation(tmp_path)
    argv = ("align", "a.safetensors", "b.safetensors", "--start", PERM, "-o", "c.safetensors")
    done = rebasin(*argv, "--json", cwd=tmp_path)
    assert done.events[1]["start"] == "given"
    found, before = (load(tmp_path / f"{name}.safetensors") for name in ("c", "b.aligned"))
    assert all(torch.equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize("command", ["merge", "lerp --steps 1 --align"])
def test_a_start_that_a_command_cannot_use_is_not_ignored(tmp_path, command):
    with_permutation(tmp_path)
    save(tmp_path / "c.safetensors", near(mlp(3), 4))
    argv = (*command.split(), "a.safetensors", "c.safetensors", "--start", "no-such.safetensors")
    assert rebasin(*argv, cwd=tmp_path).code in (2, 3)
