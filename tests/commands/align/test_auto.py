"""`align --symmetry auto` and the null value of `-v` through the real door."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.cli.harness import image, rebasin
from tests.symmetry.rotated_files import USER
from tests.symmetry.small import NETS, ONE_QUICK, TOKENS, WORDS, case

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "my.yaml")
NAMES = {"permutation": "permutations", "orthogonal": "orthogonal maps"}
AUTO = (*ALIGN, "--symmetry", "auto")
NULL = r"cosine -?0\.\d+ -> (0\.\d+) \(unrelated weights, matched: (0\.\d+)\) in \d+ sweeps?;"


def written(folder: Path, kind: str, truth: str, name: str = "b", seed: int = 1) -> None:
    """Write a model, a copy of it moved by maps of one class with some noise, and their spec."""
    found = case(kind)
    plan, generator = found.plan, torch.Generator().manual_seed(seed)
    state, bound, classes = found.folded, plan.moving, plan.classes
    if truth == "permutation":  # gains change places too
        state, bound, classes = found.state, plan.bound, dict.fromkeys(plan.classes, truth)
    maps = draw_maps(bound.groups.values(), classes, generator)
    moved = Carried(InMemory(state), bound.tensors, maps)
    other = {
        n: moved.load(n) + 0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for n, v in found.state.items()
    }
    save_file(found.state, folder / "a.safetensors")
    save_file({n: t.contiguous() for n, t in other.items()}, folder / f"{name}.safetensors")
    (folder / "my.yaml").write_text(NETS[kind])


def contents(folder: Path) -> dict[str, str]:
    return {name: str(facts[-1]) for name, facts in image(folder).items()}


def figures(shown: str) -> tuple[str, str]:
    """Return the cosine and the null value in a summary."""
    found = re.search(NULL, shown)
    assert found
    return found[1], found[2]


@pytest.mark.parametrize("kind", ONE_QUICK)
@pytest.mark.parametrize("truth", ["permutation", "orthogonal"])
def test_the_planted_class_is_chosen_and_its_files_are_written(kind, truth, tmp_path):
    written(tmp_path, kind, truth)
    done = rebasin(*AUTO, "-o", "auto/", "--save-permutation", "auto.map", cwd=tmp_path)
    assert done.code == 0, done.err
    other = next(name for key, name in NAMES.items() if key != truth)
    first = done.err.splitlines()[0]
    told = re.fullmatch(
        rf"{NAMES[truth]} chosen: their cosine is (-?0\.\d{{4}}) above that of unrelated weights "
        rf"matched alike, that of {other} (-?0\.\d{{4}}) \(\d+\.\d s\)",
        first,
    )
    assert told, first
    assert float(told[1]) > float(told[2])
    assert "can be rotated too" not in done.err
    options = ("--symmetry", truth, "-o", "plain/", "--save-permutation", "plain.map")
    plain = rebasin(*ALIGN, *options, cwd=tmp_path)
    assert [line.replace("auto/", "plain/") for line in done.lines] == plain.lines
    assert contents(tmp_path / "auto") == contents(tmp_path / "plain")
    assert (tmp_path / "auto.map").read_bytes() == (tmp_path / "plain.map").read_bytes()


def test_events_have_the_choice_and_count_the_results_alone(tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    events = rebasin(*AUTO, "--json", cwd=tmp_path).events
    choice, *results, summary = events
    assert choice["event"] == "choice"
    assert choice["symmetry"] == "orthogonal"
    assert choice["obstacle"] is None
    for name in ("permutation", "orthogonal"):
        found = choice[name]
        assert found["excess"] == pytest.approx(found["cosine"] - found["null"])
    assert choice["orthogonal"]["excess"] > choice["permutation"]["excess"] + 0.1
    assert [event["event"] for event in results] == ["result", "result"]
    assert summary["results"] == 2
    assert results[-1]["cosine"]["after"] == choice["orthogonal"]["cosine"]
    assert results[-1]["null"] == choice["orthogonal"]["null"]


def test_the_table_of_both_is_shown_when_asked_for(tmp_path):
    written(tmp_path, "layer norm", "orthogonal")
    shown = rebasin(*AUTO, "-v", cwd=tmp_path).err
    heads, permuted, rotated = shown.splitlines()[1:4]
    assert heads.split() == ["matched", "by", "cosine", "unrelated", "weights", "excess"]
    assert re.fullmatch(r"permutations( +-?0\.\d{4}){3} *", permuted)
    cosine, null, _ = rotated.split()[2:]
    assert figures(shown) == (cosine, null)
    assert "matched by" not in rebasin(*AUTO, "-f", cwd=tmp_path).err


def test_orthogonal_maps_have_a_null_value_only_where_it_is_asked_for(tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    align = (*ALIGN, "--symmetry", "orthogonal", "-f")
    cosine, null = figures(rebasin(*align, "-v", cwd=tmp_path).err)
    assert float(cosine) > float(null) + 0.1
    plain = rebasin(*align, "--json", cwd=tmp_path)
    assert plain.events[1]["null"] is None
    assert "unrelated weights" not in plain.err
    again, other = (rebasin(*align, "-v", "--seed", s, cwd=tmp_path).err for s in ("0", "1"))
    assert figures(again) == (cosine, null)
    assert figures(other)[1] != null
    choice = rebasin(*AUTO, "-f", "--json", "--seed", "1", cwd=tmp_path).events[0]
    assert f"{choice['orthogonal']['null']:.4f}" == figures(other)[1]


PERMUTED = {  # what may be rotated, made into what may not
    "{maps: orthogonal}": "{size: 12}",
    ", maps: orthogonal": "",
    ", maps: rotary": ", fixed: true",
}


def permuted_only(kind: str) -> str:
    """Return the spec of a net with permutations alone."""
    text = NETS[kind]
    for maps, none in PERMUTED.items():
        text = text.replace(maps, none)
    return text


def test_a_spec_of_permutations_alone_leaves_nothing_to_choose(tmp_path):
    written(tmp_path, "rotary", "permutation")
    (tmp_path / "my.yaml").write_text(permuted_only("rotary"))
    alike(tmp_path)


def test_units_that_have_to_stay_leave_permutations(tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    alike(tmp_path, "--skip", "head.weight")


def alike(folder: Path, *options: str) -> None:
    """See that auto says and does what align does without it."""
    plain = rebasin(*ALIGN, *options, cwd=folder)
    before = contents(folder)
    done = rebasin(*AUTO, *options, "-f", cwd=folder)
    assert done.code == plain.code == 0, done.err
    assert done.lines == plain.lines == ["a.safetensors", "b.aligned.safetensors"]
    timeless = [re.sub(r"\d+\.\d s", "", each.err) for each in (done, plain)]
    assert timeless[0] == timeless[1]
    assert contents(folder) == before


def test_a_head_that_cannot_stay_tied_leaves_permutations(tmp_path):
    state = case("layer norm", tied=True).state
    for name in ("a", "b"):
        save_file(state, tmp_path / f"{name}.safetensors")
    (tmp_path / "my.yaml").write_text(NETS["layer norm"])
    done = rebasin(*AUTO, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.startswith("permutations: a.safetensors: the output head is the embedding, ")
    assert done.events[0]["obstacle"].startswith("a.safetensors: the output head")
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "a.safetensors",
        "b.aligned.safetensors",
        "b.safetensors",
    ]


def test_one_class_is_chosen_for_all_and_a_model_that_fails_is_told_of(tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    written(tmp_path, "rotary", "orthogonal", "c", seed=2)
    broken = load_file(tmp_path / "b.safetensors")
    broken["0.k.weight"][0, 0] = torch.nan
    save_file(broken, tmp_path / "d.safetensors")
    models = ("a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors")
    done = rebasin("align", *models, *AUTO[3:], cwd=tmp_path)
    assert done.code == 5
    assert done.err.count("chosen") == 1
    assert "tensor '0.k.weight' holds NaN or infinity" in done.err
    assert done.lines == ["a.folded.safetensors", "b.aligned.safetensors", "c.aligned.safetensors"]
    save_file(broken, tmp_path / "e.safetensors")
    for others in (("d.safetensors",), ("d.safetensors", "e.safetensors")):
        alone = rebasin("align", models[0], *others, *AUTO[3:], "-f", cwd=tmp_path)
        assert alone.code == 3
        last = others[-1]
        assert alone.err.startswith(f"error: {last}: tensor '0.k.weight' holds NaN or infinity\n")
    assert not (tmp_path / "d.aligned.safetensors").exists()


def test_a_plan_has_both_and_nothing_is_written(tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    before = contents(tmp_path)
    plan = json.loads(rebasin(*AUTO, "--dry-run", cwd=tmp_path).out)
    assert plan["symmetry"] == "auto"
    assert plan["orthogonal"]["maps"]["stream"] == "orthogonal"
    assert [Path(out["path"]).name for out in plan["permutation"]["outputs"]] == [
        "b.aligned.safetensors"
    ]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "sinkhorn"), "auto compares what weights say, not method 'sinkhorn'"),
        (("--learn", "5"), "--learn learns rotations"),
        (("--start", "random"), "--start, --restarts and --loss are of permutations"),
    ],
)
def test_what_one_class_alone_knows_is_refused(options, message, tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    done = rebasin(*AUTO, *options, cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in done.err
    assert not (tmp_path / "b.aligned.safetensors").exists()


def test_what_is_odd_about_the_models_is_said_once(tmp_path):
    written(tmp_path, "rotary", "orthogonal")
    for name, eps in (("a", 1e-5), ("b", 1e-6)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.safetensors").rename(tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"rms_norm_eps": eps}))
    done = rebasin("align", "a", "b", *AUTO[3:], cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.count("warning: ") == done.err.count("rms_norm_eps") == 1


ENDLESS = """
def one_batch(): return batches(1)
def endless():
    while True:
        yield from batches()
"""


def running(folder: Path, kind: str, data: str) -> tuple[str, ...]:
    """Write the code that runs a net; return the options for it."""
    (folder / "user.py").write_text(USER + ENDLESS)
    return ("--model", f"user.py:with_{kind.replace(' ', '_')}", "--data", f"user.py:{data}")


@pytest.mark.parametrize("kind", ONE_QUICK)
@pytest.mark.parametrize("truth", ["permutation", "orthogonal"])
def test_with_data_the_midpoint_decides(kind, truth, tmp_path):
    written(tmp_path, kind, truth)
    run = running(tmp_path, kind, "endless")
    done = rebasin(*AUTO, *run, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    choice, _, aligned, _ = done.events
    losses = {name: choice[name]["loss"] for name in ("permutation", "orthogonal")}
    assert choice["symmetry"] == min(losses, key=losses.__getitem__)
    if truth == "orthogonal":
        assert choice["symmetry"] == "orthogonal"
        assert losses["permutation"] > losses["orthogonal"] + 0.1
        assert aligned["null"] is None
    assert aligned["output_difference"] < 1e-6
    name = NAMES[choice["symmetry"]]
    loss = losses[choice["symmetry"]]
    assert done.err.startswith(f"{name} chosen: the loss of the midpoint is {loss:.4g} with them, ")


def test_the_loss_is_that_of_the_average_of_what_is_written(tmp_path):
    written(tmp_path, "layer norm", "orthogonal")
    run = running(tmp_path, "layer norm", "one_batch")
    choice = rebasin(*AUTO, *run, "--json", cwd=tmp_path).events[0]
    states = [
        {n: t.double() for n, t in load_file(tmp_path / f"{name}.safetensors").items()}
        for name in ("a", "b", "a.folded", "b.aligned")
    ]
    middle = {n: (states[2][n] + states[3][n]) / 2 for n in states[2]}
    net = case("layer norm").net
    rows = torch.randint(WORDS, (4, TOKENS), generator=torch.Generator().manual_seed(0))
    first, second, between = (answers(net, each, rows) for each in (*states[:2], middle))
    targets = (first.softmax(-1) + second.softmax(-1)) / 2
    expected = -(targets * between.log_softmax(-1)).sum(-1).mean()
    assert choice["orthogonal"]["loss"] == pytest.approx(float(expected), abs=1e-4)


def answers(net, state, rows):
    net = net.double()
    net.load_state_dict(state)
    with torch.no_grad():
        return torch.cat([net(row) for row in rows])


def test_data_that_decides_nothing_is_refused(tmp_path):
    written(tmp_path, "rotary", "permutation")
    (tmp_path / "my.yaml").write_text(permuted_only("rotary"))
    done = rebasin(*AUTO, "--data", "user.py:batches", cwd=tmp_path)
    assert done.code == 2
    assert "method 'auto' uses no data" in done.err
    written(tmp_path, "rotary", "orthogonal")
    done = rebasin(*AUTO, "--data", "user.py:batches", cwd=tmp_path)
    assert done.code == 2
    assert "a model has to be run" in done.err
