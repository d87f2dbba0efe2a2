"""`align --select N`: of several alignments the one whose midpoint loses least is written."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.cli.build import load, same, save, shuffled
from tests.cli.harness import rebasin
from tests.commands.align.tiny import batches, network, trained

ROOT = str(Path(__file__).parents[3])
MODULE = f"""
import sys
sys.path.insert(0, {ROOT!r})
import torch
from torch import nn
from tests.commands.align import tiny

network = tiny.network
data = tiny.batches
def bare():
    return [x for x, y in tiny.batches()]
def one():
    return tiny.batches(1)
def spoilt():
    return [(x * float("nan"), y) for x, y in tiny.batches()]
def others():  # the batches that judge are other ones
    more = tiny.batches(seed=9)
    return [more[k] if k % 5 == 0 else pair for k, pair in enumerate(tiny.batches())]
def unlabelled():  # targets of the batches that do not judge are wrong
    return [(x, y if k % 5 == 0 else 0 * y) for k, (x, y) in enumerate(tiny.batches())]
def normed():
    return nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
"""
ALIGN = ("align", "a.safetensors", "b.safetensors", "-f", "--model", "user.py:network")
SHAPE = ("--input-shape", "2,6")
SELECT = (*ALIGN, "--data", "user.py:data", "--select", "4")

OTHER = (  # the spec in other words than the tracer's
    *(("0.weight", "[x, ~]"), ("0.bias", "[x]"), ("2.weight", "[y, x]"), ("2.bias", "[y]")),
    *(("4.weight", "[~, y]"), ("4.bias", "[~]")),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "user.py").write_text(MODULE)
    for name, seed in (("a", 1), ("b", 2)):
        save(tmp_path / f"{name}.safetensors", trained(seed))
    return tmp_path


def chosen(folder, *options):
    """Return the event of the choice, and that of the aligned model."""
    done = rebasin(*options, "--json", cwd=folder)
    assert done.code == 0, done.err
    choice, _, result, summary = done.events
    assert summary["results"] == 2
    assert choice["event"] == "choice"
    return choice, result


def midpoint(folder, model):
    a, b = load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors")
    model.load_state_dict({n: (a[n] + b[n]) / 2 if a[n].is_floating_point() else a[n] for n in a})
    return model.eval()


def test_the_least_loss_is_chosen_and_is_that_of_what_was_written(folder):
    choice, result = chosen(folder, *SELECT)
    losses = {one["name"]: one["loss"] for one in choice["candidates"]}
    assert len(losses) == 4
    assert choice["name"] == min(losses, key=losses.__getitem__) != "default"
    assert choice["loss"] == losses[choice["name"]] < losses["default"]
    assert (choice["loss_against"], choice["batches"], choice["held_out"]) == ("targets", 2, True)
    model = midpoint(folder, network())
    with torch.no_grad():
        found = [float(F.cross_entropy(model(x), y)) for x, y in batches()[::5]]
    assert choice["loss"] == pytest.approx(sum(found) / len(found), rel=1e-5)
    (best,) = (one for one in choice["candidates"] if one["name"] == choice["name"])
    assert best["objective"] == result["objective"]["after"]
    assert best["cosine"] == pytest.approx(result["cosine"]["after"])


def test_what_would_be_done_without_choosing_is_the_first_candidate(folder):
    for options in ((), ("--effort", "quick"), ("--method", "weights", "--start", "random")):
        choice, _ = chosen(folder, *SELECT, *options)
        plain = rebasin(*ALIGN, *options, "--json", cwd=folder).events[1]
        first = choice["candidates"][0]
        assert first["name"] == "default"
        assert first["objective"] == plain["objective"]["after"]


def test_a_method_that_is_asked_for_is_the_default(folder):
    activations = ("--method", "activations", "--mix", "0.35")
    choice, _ = chosen(folder, *SELECT, *activations)
    names = [one["name"] for one in choice["candidates"]]
    assert names[0] == "default"
    assert "activations, mix 0.35" not in names
    assert choice["candidates"][0]["method"] == "activations"
    assert "weights" in [c["name"] for c in dry(folder, *SELECT, *activations, "--select", "50")]


def dry(folder, *options):
    return json.loads(rebasin(*options, "--dry-run", cwd=folder).out)["candidates"]


def test_a_plan_lists_the_candidates_and_no_more_than_there_are(folder):
    few, all_ = (dry(folder, *ALIGN, "--data", "user.py:data", "--select", n) for n in ("2", "50"))
    assert few == all_[:2]
    assert few[0] == {"symmetry": "permutation", "name": "default"}
    names = [one["name"] for one in all_]
    assert 6 < len(set(names)) == len(names) < 50
    assert not (folder / "b.aligned.safetensors").exists()


def test_a_copy_in_another_order_comes_back_by_the_first_that_finds_it(folder):
    save(folder / "b.safetensors", shuffled(trained(1), 7))
    choice, _ = chosen(folder, *SELECT, "--model", "user.py:network")
    assert choice["name"] == "default"
    assert same(load(folder / "b.aligned.safetensors"), load(folder / "a.safetensors"))


def test_candidates_are_not_made_on_what_judges_them(folder):
    data, others, unlabelled = (
        chosen(folder, *ALIGN, "--select", "4", "--data", f"user.py:{name}")[0]["candidates"]
        for name in ("data", "others", "unlabelled")
    )
    objectives, losses = ([[one[key] for one in found] for found in (data, others, unlabelled)]
                          for key in ("objective", "loss"))  # fmt: skip
    assert objectives[0] == objectives[1] == objectives[2]
    assert losses[0] == losses[2]
    assert all(x != y for x, y in zip(losses[0], losses[1], strict=True))


def test_the_share_that_judges_can_be_chosen(folder):
    choice, _ = chosen(folder, *SELECT, "--held-out", "0.5")
    assert choice["batches"] == 5


def test_one_batch_judges_what_was_made_on_it_and_that_is_said(folder):
    options = (*ALIGN, "--select", "3", "--data", "user.py:one")
    choice, _ = chosen(folder, *options)
    assert (choice["batches"], choice["held_out"]) == (1, False)
    said = "judged on what was also matched on: the data has no other batches"
    assert said in rebasin(*options, cwd=folder).err
    assert said not in rebasin(*SELECT, cwd=folder).err


def test_without_targets_the_answers_of_both_models_judge(folder):
    choice, _ = chosen(folder, *ALIGN, "--select", "4", "--data", "user.py:bare")
    assert choice["loss_against"] == "answers"
    ends = [network() for _ in "ab"]
    for end, name in zip(ends, "ab", strict=True):
        end.load_state_dict(load(folder / f"{name}.safetensors"))
    model, found = midpoint(folder, network()), []
    with torch.no_grad():
        for x, _ in batches()[::5]:
            targets = sum(end(x).softmax(-1) for end in ends) / 2
            found.append(float(F.cross_entropy(model(x), targets)))
    assert choice["loss"] == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_norms_with_statistics_are_measured_anew_on_the_other_batches(folder):
    for name, seed in (("a", 1), ("b", 2)):
        save(folder / f"{name}.safetensors", normed(seed).state_dict())
    options = (*ALIGN[:4], "--model", "user.py:normed", "--data", "user.py:data", "--batches", "2")
    choice, _ = chosen(folder, *options, "--select", "3", "--held-out", "0.5")
    model = midpoint(folder, normed(1))
    (judged, targets), (measured, _) = batches()[:2]
    with torch.no_grad():
        inputs = model[0](measured)
        assert not torch.allclose(model[1].running_mean, inputs.mean(0), atol=1e-2)
        model[1].running_mean.copy_(inputs.mean(0))
        model[1].running_var.copy_(inputs.var(0))
        expected = F.cross_entropy(model(judged), targets)
    assert choice["loss"] == pytest.approx(float(expected), rel=1e-4)


def normed(seed):
    """Return a network with a norm that has seen data, as that of `user.py`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    with torch.no_grad():
        next(model.parameters()).mul_(4)
        for x, _ in batches():
            model(x)
    return model


def test_the_summary_says_what_was_gained_and_v_shows_all_candidates(folder):
    done = rebasin(*SELECT, "-v", cwd=folder)
    assert done.code == 0, done.err
    first, heads, *rows = done.err.splitlines()[:6]
    told = re.fullmatch(
        r"b\.safetensors: (.+) chosen among 4 candidates: the loss of the midpoint is (0\.\d+), "
        r"(\d\.\d+) with default \(\d+\.\d s\)",
        first,
    )
    assert told, first
    assert heads.split() == ["candidate", "cosine", "midpoint's", "loss", "seconds"]
    cells = {row.rsplit(maxsplit=3)[0].strip(): row.rsplit(maxsplit=3)[1:] for row in rows}
    assert next(iter(cells)) == "default"
    assert float(cells[told[1]][1]) == pytest.approx(float(told[2]), abs=1e-4)
    assert float(cells["default"][1]) == pytest.approx(float(told[3]), abs=1e-3)
    assert done.lines == ["a.safetensors", "b.aligned.safetensors"]
    quiet = rebasin(*SELECT, cwd=folder).err
    assert "chosen among 4 candidates" in quiet
    assert "midpoint's loss" not in quiet


def test_the_same_command_gives_the_same_bytes(folder):
    digests = {chosen(folder, *SELECT)[1]["sha256"] for _ in range(2)}
    assert len(digests) == 1


def test_a_candidate_that_cannot_be_made_is_told_and_the_others_go_on(folder):
    text = "rebasin: 1\ntensors:\n" + "".join(f"  {name}: {axes}\n" for name, axes in OTHER)
    (folder / "my.yaml").write_text(text)
    choice, _ = chosen(folder, *SELECT, "--spec", "my.yaml")
    errors = {one["name"]: one["error"] for one in choice["candidates"]}
    assert errors["default"] is None
    failed = [name for name, error in errors.items() if error]
    assert failed
    assert all(name.startswith("activations") for name in failed)
    assert "no activations tell of a group of my.yaml" in errors[failed[0]]
    shown = rebasin(*SELECT, "--spec", "my.yaml", "-v", cwd=folder).err
    assert re.search(r"^activations, mix 0\.35 +failed +\d", shown, re.M)
    assert "no activations tell of a group of my.yaml" in shown


def test_data_that_judges_nothing_is_an_error_and_nothing_is_written(folder):
    done = rebasin(*ALIGN, "--select", "3", "--data", "user.py:spoilt", *SHAPE, cwd=folder)
    assert done.code == 3, done.err
    assert "user.py:spoilt: the loss of a midpoint is nan" in done.err
    assert not (folder / "b.aligned.safetensors").exists()


def test_a_model_that_fails_is_told_and_the_others_are_aligned(folder):
    broken = dict(trained(2))
    broken["2.weight"] = broken["2.weight"].clone()
    broken["2.weight"][0, 0] = torch.nan
    save(folder / "c.safetensors", broken)
    models = ("align", "a.safetensors", "c.safetensors", "b.safetensors")
    done = rebasin(*models, *SELECT[3:], cwd=folder)
    assert done.code == 5, done.err
    assert done.lines == ["a.safetensors", "b.aligned.safetensors"]
    assert "error: c.safetensors: tensor '2.weight' holds NaN or infinity" in done.err
    assert done.err.count("chosen among") == 1
    assert not (folder / "c.aligned.safetensors").exists()


def test_for_what_is_there_already_nothing_is_tried(folder):
    save(folder / "b.aligned.safetensors", trained(3))
    before = (folder / "b.aligned.safetensors").read_bytes()
    argv = [option for option in SELECT if option != "-f"]
    done = rebasin(*argv, "--no-clobber", cwd=folder)
    assert done.code == 0, done.err
    assert "chosen" not in done.err
    assert (folder / "b.aligned.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "straight-through"), "straight-through learns for epochs"),
        (("--start", "b.perm.safetensors"), "--select makes candidates of its own, from no file"),
        (("--method", "activations", "--statistics", "s.st"), "makes candidates of its own"),
        (("--common",), "--select averages whole models"),
        (("--epochs", "3"), "--epochs, --learning-rate, --check-every and --resume"),
        (("--held-out", "1"), "--held-out 1 is not a share"),
        (("--mix", "0.5"), "--mix, --point and --stream are of another method"),
        (("--method", "bogus"), "no method is called 'bogus'"),
        (("--select", "1"), "greater than or equal to 2"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, message, folder):
    done = rebasin(*SELECT, *options, cwd=folder)
    assert done.code == 2, done.err
    assert message in " ".join(done.err.split())
    assert not (folder / "b.aligned.safetensors").exists()


def test_model_and_data_have_to_be_there(folder):
    bare = ("align", "a.safetensors", "b.safetensors", "--select", "3")
    without = rebasin(*bare, "--data", "user.py:data", cwd=folder)
    assert without.code == 2
    assert "a model has to be run" in without.err
    without = rebasin(*bare, "--model", "user.py:network", cwd=folder)
    assert without.code == 2
    assert "there is no data to run the model on" in without.err
