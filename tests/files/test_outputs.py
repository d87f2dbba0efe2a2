"""Where results go, what they replace, and what they keep of their model."""

import json
import stat

import pytest
import torch
from safetensors import safe_open

from tests.cli.build import load, mlp, near, pair, same, save, sharded, shuffled
from tests.cli.harness import fresh, image, rebasin

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_aligned_model_is_the_model_in_another_order(tmp_path):
    pair(tmp_path)
    assert rebasin(*ALIGN, cwd=tmp_path).code == 0
    before, after = (load(tmp_path / f"{name}.safetensors") for name in ("b", "b.aligned"))
    assert list(after) == list(before)
    for name in before:
        assert torch.equal(after[name].flatten().sort()[0], before[name].flatten().sort()[0])
    x = torch.randn(5, 6)
    torch.testing.assert_close(outputs(after, x), outputs(before, x))


def outputs(state, x):
    for layer in (0, 2, 4):
        x = torch.relu(x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"])
    return x @ state["6.weight"].T + state["6.bias"]


def test_inputs_are_never_touched(tmp_path):
    pair(tmp_path)
    before = image(tmp_path)
    rebasin(*ALIGN, cwd=tmp_path)
    assert {name: facts for name, facts in image(tmp_path).items() if name in before} == before


def test_force_replaces_and_keeps_the_mode(tmp_path):
    pair(tmp_path)
    target = tmp_path / "b.aligned.safetensors"
    target.write_bytes(b"old")
    target.chmod(0o640)
    assert rebasin(*ALIGN, "--force", cwd=tmp_path).code == 0
    assert target.stat().st_size > 100
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_no_clobber_leaves_what_exists_and_goes_on(tmp_path):
    pair(tmp_path)
    save(tmp_path / "c.safetensors", shuffled(mlp(1), 5))
    (tmp_path / "b.aligned.safetensors").write_bytes(b"old")
    done = rebasin(*ALIGN, "c.safetensors", "--no-clobber", cwd=tmp_path)
    assert done.code == 0
    assert done.lines[1:] == ["b.aligned.safetensors", "c.aligned.safetensors"]
    assert (tmp_path / "b.aligned.safetensors").read_bytes() == b"old"
    assert (tmp_path / "c.aligned.safetensors").stat().st_size > 100


def test_in_place_replaces_the_model_itself(tmp_path):
    pair(tmp_path)
    rebasin(*ALIGN, cwd=tmp_path)
    done = rebasin(*ALIGN, "--in-place", cwd=tmp_path)
    assert done.lines == ["a.safetensors", "b.safetensors"]
    one, other = (load(tmp_path / f"{name}.safetensors") for name in ("b", "b.aligned"))
    assert same(one, other)


def test_in_place_through_a_link_keeps_the_link(tmp_path):
    pair(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "b.safetensors").rename(tmp_path / "store" / "real.safetensors")
    (tmp_path / "b.safetensors").symlink_to("store/real.safetensors")
    old = (tmp_path / "store" / "real.safetensors").read_bytes()
    assert rebasin(*ALIGN, "--in-place", cwd=tmp_path).code == 0
    assert (tmp_path / "b.safetensors").is_symlink()
    assert (tmp_path / "store" / "real.safetensors").read_bytes() != old
    assert names(tmp_path / "store") == ["real.safetensors"]


def test_in_place_does_not_replace_the_reference(tmp_path):
    pair(tmp_path)
    before = image(tmp_path)
    done = rebasin(*ALIGN, "--in-place", "-o", "a.safetensors", cwd=tmp_path)
    assert (done.code, image(tmp_path) == before) == (2, True)


def test_several_results_go_into_one_folder(tmp_path):
    pair(tmp_path)
    for run in ("x", "y"):
        save(tmp_path / run / "model.safetensors", near(mlp(1), 3))
    argv = ("align", "a.safetensors", "x/model.safetensors", "y/model.safetensors")
    done = rebasin(*argv, "--spec", "mlp", "-o", "out", cwd=tmp_path)
    assert done.lines[1:] == ["out/x-model.aligned.safetensors", "out/y-model.aligned.safetensors"]
    assert all((tmp_path / line).exists() for line in done.lines)


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        ((*ALIGN, "-o", "out/"), "out/b.aligned.safetensors"),
        (
            ("lerp", "a.safetensors", "b.safetensors", "--at", "0.5", "-o", "out/"),
            "out/alpha-0.500000.safetensors",
        ),
        (("merge", *ALIGN[1:], "-o", "out/"), "out/merged.safetensors"),
        ((*ALIGN, "--save-permutation", "out/"), "out/b.permutation.safetensors"),
        (("verify", *ALIGN[1:], "--save-permutation", "out/"), "out/b.permutation.safetensors"),
        (
            ("transport", *ALIGN[1:2], "--from", ALIGN[1], "--to", ALIGN[2], "-o", "out/"),
            "out/a.transported.safetensors",
        ),
    ],
    ids=["align", "lerp", "merge", "a permutation", "that of verify", "transport"],
)
@pytest.mark.parametrize("there", [False, True], ids=["to be made", "there"])
def test_a_slash_at_the_end_means_a_folder(tmp_path, argv, path, there):
    pair(tmp_path)
    if there:
        (tmp_path / "out").mkdir()
        argv = [word.rstrip("/") for word in argv]  # which it does without, where there is one
    assert rebasin(*argv, cwd=tmp_path).code < 2
    assert (tmp_path / path).is_file()


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        ((*ALIGN, "-o", "loop"), 2, "loop is a link that leads to itself"),
        (
            ("lerp", *ALIGN[1:3], "--at", "0.5", "--resume", "loop"),
            2,
            "loop is a link that leads to itself",
        ),
        ((*ALIGN, "-o", "x" * 256), 4, "File name too long\nhint: name a shorter one"),
    ],
)
def test_a_name_that_cannot_be_a_file_is_told(tmp_path, argv, code, told):
    pair(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    done = rebasin(*argv, cwd=tmp_path)
    assert (done.code, done.lines) == (code, [])
    assert told in done.err


def test_no_clobber_leaves_a_permutation_too(tmp_path):
    pair(tmp_path)
    (tmp_path / "p.safetensors").write_bytes(b"old")
    argv = (*ALIGN, "--no-clobber", "--save-permutation", "p.safetensors")
    done = rebasin(*argv, cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["a.safetensors", "b.aligned.safetensors"])
    assert (tmp_path / "p.safetensors").read_bytes() == b"old"


def test_a_dry_run_prints_a_plan_and_writes_nothing(tmp_path):
    pair(tmp_path)
    before = image(tmp_path)
    argv = ("--dry-run", "--save-permutation", "p.safetensors", "--card")
    done = rebasin(*ALIGN, *argv, cwd=tmp_path)
    plan = json.loads(done.out)
    assert (done.code, image(tmp_path)) == (0, before)
    (output,) = plan["outputs"]
    assert output["path"] == "b.aligned.safetensors"
    assert (output["permutation"], output["card"]) == ("p.safetensors", "b.aligned.card.md")
    assert [group["name"] for group in plan["groups"]] == ["hidden.0", "hidden.2", "hidden.4"]
    assert plan["memory"] > 0


@pytest.mark.parametrize(
    "argv",
    [
        ("merge", "a.safetensors", "b.safetensors"),
        ("lerp", "a.safetensors", "b.safetensors", "--steps", "3"),
        ("verify", "a.safetensors", "b.safetensors"),
        ("diff", "a.safetensors", "b.safetensors"),
        ("inspect", "a.safetensors"),
    ],
    ids=lambda argv: argv[0],
)
def test_every_command_has_a_dry_run(tmp_path, argv):
    pair(tmp_path)
    before = image(tmp_path)
    done = rebasin(*argv, "-n", cwd=tmp_path)
    assert json.loads(done.out)["command"] == argv[0]
    assert (done.code, image(tmp_path)) == (0, before)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("verify a.safetensors b.safetensors --save-permutation x", "permutation"),
        ("spec trace torch.nn:Linear -o x", "path"),
    ],
    ids=["verify", "trace"],
)
def test_a_plan_names_what_is_written_beside_results(tmp_path, line, field):
    pair(tmp_path)
    assert json.loads(rebasin(*line.split(), "-n", cwd=tmp_path).out)[field] == "x"


def test_a_dry_run_ends_as_the_real_one_would(tmp_path):
    pair(tmp_path)
    (tmp_path / "b.aligned.safetensors").write_bytes(b"old")
    assert rebasin(*ALIGN, "-n", cwd=tmp_path).code == 2


def test_torch_in_is_torch_out_with_the_same_nesting(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    nested = {"epoch": 3, "model": {f"module.{n}": t for n, t in shuffled(mlp(1)).items()}}
    torch.save(nested, tmp_path / "b.pt")
    done = rebasin("align", "a.pt", "b.pt", cwd=tmp_path)
    assert done.lines[1] == "b.aligned.pt"
    found = torch.load(tmp_path / "b.aligned.pt", weights_only=True)
    assert list(found) == ["epoch", "model"]
    assert found["epoch"] == 3
    assert same(found["model"], {f"module.{n}": t for n, t in mlp(1).items()})


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (("--format", "safetensors"), "b.aligned.safetensors"),
        (("-o", "x.safetensors"), "x.safetensors"),
    ],
)
def test_the_format_is_the_one_asked_for(tmp_path, extra, name):
    pair(tmp_path, ".pt")
    done = rebasin("align", "a.pt", "b.pt", *extra, "--spec", "mlp", cwd=tmp_path)
    assert done.lines[1] == name
    assert json.loads(metadata(tmp_path / name)["rebasin"])["command"] == "align"


def test_a_file_ending_survives_dots_in_the_name(tmp_path):
    pair(tmp_path, ".pt")
    (tmp_path / "b.pt").rename(tmp_path / "model.v1.2.ckpt")
    done = rebasin("align", "a.pt", "model.v1.2.ckpt", "--spec", "mlp", cwd=tmp_path)
    assert done.lines[1] == "model.v1.2.aligned.ckpt"


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ((), "b.v1.aligned.pth.tar"),
        (("--format", "pt"), "b.v1.aligned.pth.tar"),
        (("--format", "safetensors"), "b.v1.aligned.safetensors"),
    ],
)
def test_the_two_endings_of_training_scripts_stay_together(tmp_path, extra, name):
    pair(tmp_path, ".pt")
    (tmp_path / "b.pt").rename(tmp_path / "b.v1.pth.tar")
    done = rebasin("align", "a.pt", "b.v1.pth.tar", *extra, "--spec", "mlp", cwd=tmp_path)
    assert done.lines[1] == name
    assert rebasin("verify", name, "b.v1.pth.tar", "--spec", "mlp", cwd=tmp_path).code == 0


def test_a_folder_comes_out_as_a_folder_with_its_shards_and_other_files(tmp_path):
    save(tmp_path / "a.safetensors", mlp(1))
    sharded(tmp_path / "b", shuffled(mlp(1)), {"model_type": "x"})
    done = rebasin("align", "a.safetensors", "b", cwd=tmp_path)
    assert done.lines[1] == "b.aligned"
    folder = tmp_path / "b.aligned"
    assert names(folder) == names(tmp_path / "b")
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "x"}
    weight_maps = [
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text())["weight_map"]
        for name in ("b", "b.aligned")
    ]
    assert weight_maps[0] == weight_maps[1]
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) == 2
    assert same({n: t for part in parts for n, t in load(part).items()}, mlp(1))


def test_dtypes_are_kept(tmp_path):
    pair(tmp_path)
    save(tmp_path / "b.safetensors", {n: t.bfloat16() for n, t in shuffled(mlp(1)).items()})
    rebasin(*ALIGN, cwd=tmp_path)
    found = load(tmp_path / "b.aligned.safetensors")
    assert same(found, {n: t.bfloat16() for n, t in mlp(1).items()})


def test_a_dtype_is_that_of_floats_only(tmp_path):
    pair(tmp_path)
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        save(path, {**load(path), "steps": torch.tensor(7)})
    rebasin(*ALIGN, "--dtype", "bfloat16", cwd=tmp_path)
    found = load(tmp_path / "b.aligned.safetensors")
    assert found.pop("steps").dtype == torch.int64
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_metadata_of_the_model_stays_and_provenance_is_added(tmp_path):
    pair(tmp_path)
    rebasin(*ALIGN, "--seed", "3", cwd=tmp_path)
    found = metadata(tmp_path / "b.aligned.safetensors")
    record = json.loads(found["rebasin"])
    assert found["format"] == "pt"
    assert [item["name"] for item in record["inputs"]] == ["a.safetensors", "b.safetensors"]
    assert (record["command"], record["spec"], record["seed"]) == ("align", "mlp", 3)


@pytest.mark.slow
def test_two_runs_write_the_same_bytes_whatever_the_process_and_its_threads(tmp_path):
    for seed, name in enumerate(("a", "b")):  # so wide that there is work for two threads
        save(tmp_path / f"{name}.safetensors", mlp(seed, (64, 640, 640, 10)))
    argv = (*ALIGN, "--method", "weights", "--restarts", "2", "--save-permutation")
    rebasin(*argv, "p1.safetensors", "-o", "x1.safetensors", "-j", "1", cwd=tmp_path)
    fresh(
        *(*argv, "p2.safetensors", "-o", "x2.safetensors", "-j", "2"),
        cwd=tmp_path,
        env={"PYTHONHASHSEED": "99"},
    )
    for kind in "px":
        one, other = (tmp_path / f"{kind}{run}.safetensors" for run in (1, 2))
        assert one.read_bytes() == other.read_bytes()


def test_tensors_the_spec_does_not_name_are_counted_and_pass_through(tmp_path):
    pair(tmp_path)
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        save(path, {**load(path), "extra": torch.ones(3), "more": torch.ones(3)})
    done = rebasin(*ALIGN, "--pass-through", "extra", "--pass-through", "mor*", cwd=tmp_path)
    assert "2 tensors not named by the spec" in done.err
    assert torch.equal(load(tmp_path / "b.aligned.safetensors")["extra"], torch.ones(3))


def test_skipped_tensors_do_not_move(tmp_path):
    pair(tmp_path)
    done = rebasin(*ALIGN, "--skip", "0.*", "--json", cwd=tmp_path)
    moved = {group["name"]: group["moved"] for group in done.events[1]["groups"]}
    assert moved["hidden.0"] == 0
    assert moved["hidden.4"] > 0
