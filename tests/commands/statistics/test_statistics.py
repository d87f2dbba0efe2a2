"""`rebasin statistics`, and `align --method activations` with its file or with a model."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rebasin_cli.activations.layer_statistics import from_flat
from tests.cli.build import load, same, save
from tests.cli.harness import Done, rebasin
from tests.cli.models import planted, write_net

AB = ("a.safetensors", "b.safetensors")
MODEL = ("--model", "net.py:Net")
DATA = ("--data", "data.py:batches")
ACTIVATIONS = ("align", *AB, "--method", "activations")
FILE = "a.statistics.safetensors"
LOADERS = """
import torch


def batches(count=40, width=6):
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        yield torch.randn(50, width, generator=generator), torch.zeros(50, dtype=torch.long)


def narrow():
    return batches(2, 5)


def endless_numbers():
    yield torch.full((4, 6), float("inf"))


def broken():
    raise OSError("the disk with the pictures is gone")
    yield
"""


@pytest.fixture
def folder(tmp_path):
    write_net(tmp_path)
    (tmp_path / "data.py").write_text(LOADERS)
    planted(tmp_path)
    return tmp_path


def run(folder, *argv) -> Done:
    return rebasin(*argv, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def noisy(folder):
    """Make b another network, so that there is more than one thing to find."""
    generator = torch.Generator().manual_seed(5)
    state = load(folder / "b.safetensors")
    save(
        folder / "b.safetensors",
        {n: t + 0.7 * torch.randn(t.shape, generator=generator) for n, t in state.items()},
    )


def gathered(folder, *more) -> Done:
    done = run(folder, "statistics", *AB, *MODEL, *DATA, *more)
    assert done.code == 0, done.err
    return done


def of_groups(path):
    return {name: t for name, t in load_file(path).items() if not name.startswith("layer.")}


def test_the_file_is_named_after_the_first_model_and_its_path_printed(folder):
    done = gathered(folder)
    assert done.lines == [FILE]
    assert "a.safetensors and b.safetensors: 2 groups seen after the activation" in done.err
    assert "2,000 samples a unit" in done.err


def test_the_file_holds_means_variances_and_covariances(folder):
    gathered(folder)
    with safe_open(folder / FILE, "pt") as file:
        metadata = file.metadata()
    record = json.loads(metadata["rebasin.statistics"])
    assert [(p["dims"], p["count"]) for p in record["places"]] == [
        ([["net.0", 16]], 2000),
        ([["net.1", 12]], 2000),
    ]
    assert record["moment"] == "after" and record["model"] == "net.py:Net"
    assert "net.0.weight: [net.0]" in metadata["rebasin.spec"]
    tensors = of_groups(folder / FILE)
    assert tensors.keys() == {
        *(f"{k}.{what}.{side}" for k in "01" for what in ("mean", "variance") for side in "ab"),
        *("0.covariance", "1.covariance"),
    }
    generator = torch.Generator().manual_seed(3)
    rows = torch.cat([torch.randn(50, 6, generator=generator) for _ in range(40)])
    a, b = (load(folder / name) for name in AB)
    units = [torch.relu(rows @ s["net.0.weight"].T + s["net.0.bias"]).double() for s in (a, b)]
    assert torch.allclose(tensors["0.mean.a"], units[0].mean(0), rtol=1e-5)
    assert torch.allclose(tensors["0.variance.b"], units[1].var(0, correction=0), rtol=1e-4)
    centred = [values - values.mean(0) for values in units]
    products = centred[0].T @ centred[1] / len(rows)
    assert torch.allclose(tensors["0.covariance"], products, rtol=1e-4, atol=1e-5)


def test_the_file_holds_what_each_layer_does(folder):
    gathered(folder)
    layers = from_flat(load_file(folder / FILE))
    assert layers.keys() == {"net.0", "net.1"}  # nothing is corrected after the last layer
    generator = torch.Generator().manual_seed(3)
    rows = torch.cat([torch.randn(50, 6, generator=generator) for _ in range(40)])
    state = load(folder / "b.safetensors")
    values = (rows @ state["net.0.weight"].T + state["net.0.bias"]).double()
    assert torch.allclose(layers["net.0"].means[1], values.mean(0), rtol=1e-4, atol=1e-5)
    assert torch.allclose(layers["net.0"].deviations[1], values.std(0, correction=0), rtol=1e-4)
    correlations = layers["net.1"].correlations
    assert correlations is not None and correlations.shape == (1, 12)


def test_statistics_of_one_model_have_no_covariances(folder):
    done = run(folder, "statistics", "a.safetensors", *MODEL, *DATA, "-o", "one.safetensors")
    assert done.lines == ["one.safetensors"]
    assert set(of_groups(folder / "one.safetensors")) == {
        f"{k}.{what}.a" for k in "01" for what in ("mean", "variance")
    }
    refused = run(folder, *ACTIVATIONS, "--statistics", "one.safetensors")
    assert refused.code == 2
    assert "one.safetensors tells of one model" in refused.err


def test_the_event_names_the_groups(folder):
    (event, end) = gathered(folder, "--json", "--point", "before").events
    assert end["event"] == "summary"
    assert event["command"] == "statistics" and event["path"] == FILE
    assert event["groups"] == [{"name": "net.0", "size": 16}, {"name": "net.1", "size": 12}]
    assert event["point"] == "before" and event["unseen"] == [] and event["samples"] == 2000


def test_a_dry_run_says_where_the_file_would_go(folder):
    done = run(folder, "statistics", *AB, *MODEL, *DATA, "--dry-run")
    plan = json.loads(done.out)
    assert plan["outputs"][0]["path"] == FILE and plan["point"] == "after"
    alone = json.loads(run(folder, "statistics", AB[0], *MODEL, *DATA, "--dry-run").out)
    size = 4 * sum(tensor.numel() for tensor in load(folder / AB[0]).values())
    assert plan["memory"] - alone["memory"] == size + 8 * (3 * (16**2 + 12**2) + 3 * 16**2)
    assert not (folder / FILE).exists()


def test_a_planted_order_is_found_without_the_model_and_the_data(folder):
    gathered(folder)
    (folder / "net.py").unlink()
    (folder / "data.py").unlink()
    done = run(folder, *ACTIVATIONS, "--statistics", FILE)
    assert done.lines == ["a.safetensors", "b.aligned.safetensors"], done.err
    assert same(load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors"))
    assert f"spec of {FILE}" in done.err


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--similarity", "covariance"), marks=pytest.mark.slow),
        pytest.param(("--similarity", "correlation"), marks=pytest.mark.slow),
        pytest.param(("--similarity", "absolute"), marks=pytest.mark.slow),
        ("--mix", "0.5"),
    ],
)
def test_the_file_gives_what_running_the_models_gives(folder, options):
    noisy(folder)
    gathered(folder)
    save_one = ("--save-permutation", "one.safetensors", "-o", "x.safetensors")
    save_two = ("--save-permutation", "two.safetensors", "-o", "y.safetensors")
    one = run(folder, *ACTIVATIONS, *options, "--statistics", FILE, *save_one)
    two = run(folder, *ACTIVATIONS, *options, *MODEL, *DATA, *save_two)
    assert one.code == two.code == 0, one.err + two.err
    permutations = load_file(folder / "one.safetensors")
    assert same(permutations, load_file(folder / "two.safetensors"))
    assert any((p != torch.arange(len(p))).any() for p in permutations.values())


def test_the_point_is_looked_at_when_the_models_run(folder):
    noisy(folder)
    found = []
    for point in ("after", "before"):
        out = f"{point}.safetensors"
        done = run(folder, *ACTIVATIONS, *MODEL, *DATA, "--point", point, "-o", out)
        assert done.code == 0, done.err
        found.append(load(folder / out))
    assert not same(*found)


def test_models_may_come_the_other_way_round(folder):
    gathered(folder)
    done = run(
        folder, "align", *AB[::-1], "--method", "activations", "--statistics", FILE, "-o", "c.pt"
    )
    assert done.code == 0, done.err
    assert same(load(folder / "b.safetensors"), load(folder / "c.pt"))


def test_the_event_has_the_method_and_figures_of_the_weights(folder):
    noisy(folder)
    gathered(folder)
    event = run(folder, *ACTIVATIONS, "--statistics", FILE, "--json").events[1]
    assert event["method"] == "activations" and event["unseen"] == []
    a, b = load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors")
    distance = sum(float((a[n] - b[n]).double().square().sum()) for n in a) ** 0.5
    assert event["distance"]["after"] == pytest.approx(distance)


def test_the_spec_of_a_file_may_be_given_as_one(folder):
    (folder / "net.yaml").write_text(run(folder, "spec", "trace", "net.py:Net").out)
    done = run(folder, *ACTIVATIONS, *MODEL, *DATA, "--spec", "net.yaml")
    assert done.code == 0, done.err
    assert same(load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors"))
    assert "spec net.yaml" in done.err


def test_a_spec_with_other_names_is_refused(folder):
    (folder / "own.yaml").write_text(
        "rebasin: 1\ntensors:\n  net.0.weight: [first]\n  net.0.bias: [first]\n"
        "  net.1.weight: [second, first]\n  net.1.bias: [second]\n  net.2.weight: [~, second]\n"
        "  net.2.bias: [~]\n"
    )
    done = run(folder, *ACTIVATIONS, *MODEL, *DATA, "--spec", "own.yaml")
    assert done.code == 3
    assert "no activations tell of a group of own.yaml" in done.err
    assert "its groups are first, second" in done.err


def test_a_group_of_another_name_is_matched_on_weights_and_said(folder):
    (folder / "half.yaml").write_text(
        "rebasin: 1\ntensors:\n  net.0.{weight,bias}: [net.0]\n  net.1.weight: [own, net.0]\n"
        "  net.1.bias: [own]\n  net.2.weight: [~, own]\n  net.2.bias: [~]\n"
    )
    done = run(folder, *ACTIVATIONS, *MODEL, *DATA, "--spec", "half.yaml")
    assert done.code == 0, done.err
    assert "matched on weights, since no activations tell of them: own" in done.err
    assert same(load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors"))


# -- refusals ---------------------------------------------------------------------------------


def test_statistics_of_other_checkpoints_are_refused(folder):
    gathered(folder)
    noisy(folder)
    done = run(folder, *ACTIVATIONS, "--statistics", FILE)
    assert done.code == 3
    assert f"{FILE}: the statistics are of other checkpoints" in done.err
    assert "a.safetensors (sha256 " in done.err and ") is in it" in done.err
    assert ") is not in it" in done.err
    assert run(folder, *ACTIVATIONS, "--statistics", FILE, "--trust").code == 0


def test_a_file_of_another_kind_is_refused(folder):
    done = run(folder, *ACTIVATIONS, "--statistics", "a.safetensors")
    assert done.code == 3
    assert "a.safetensors: this is not a file of statistics" in done.err
    assert "rebasin statistics A B" in done.err


@pytest.mark.parametrize("damage", ["lost", "shape", "numbers", "words"])
def test_a_damaged_file_is_refused(folder, damage):
    gathered(folder)
    with safe_open(folder / FILE, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(folder / FILE)
    if damage == "lost":
        del tensors["1.covariance"]
    elif damage == "shape":
        tensors["1.covariance"] = tensors["1.covariance"][:5].contiguous()
    elif damage == "numbers":
        tensors["0.mean.a"][2] = float("nan")
    else:
        metadata["rebasin.statistics"] = metadata["rebasin.statistics"][:-4]
    save_file(tensors, folder / FILE, metadata=metadata)
    done = run(folder, *ACTIVATIONS, "--statistics", FILE)
    assert done.code == 3
    assert f"{FILE}: this file of statistics is damaged" in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((*ACTIVATIONS,), "a model has to be run"),
        ((*ACTIVATIONS, *MODEL), "there is no data to run the model on"),
        ((*ACTIVATIONS, *MODEL, *DATA, "--mix", "0"), "--mix 0 is not a share"),
        ((*ACTIVATIONS, *MODEL, *DATA, "--mix", "1.5"), "--mix 1.5 is not a share"),
        ((*ACTIVATIONS, *MODEL, *DATA, "--similarity", "inne"), "similarity is called 'inne'"),
        ((*ACTIVATIONS, *MODEL, *DATA, "--point", "during"), "point is called 'during'"),
        ((*ACTIVATIONS, *MODEL, *DATA, "--statistics", FILE), "exclude each other"),
        (("align", *AB, "--statistics", FILE), "are of another method"),
        (("align", *AB, *MODEL, "--mix", "0.5"), "are of another method"),
        ((*ACTIVATIONS, *MODEL, *DATA, "--start", "p.safetensors"), "does not start from a perm"),
        (("align", *AB, *MODEL, *DATA), "method 'auto' uses no data"),
        (("merge", *AB, *MODEL, "--method", "activations"), "only `rebasin align` has the method"),
        (("statistics", *MODEL, *DATA), "of one model or of a pair, not of 0"),
        (("statistics", *AB, "a.safetensors", *MODEL, *DATA), "not of 3"),
        (("statistics", *AB, *DATA), "a model has to be run"),
        (("statistics", *AB, *MODEL), "there is no data to run the model on"),
        (("statistics", *AB, *MODEL, *DATA, "-o", "a.safetensors"), "is one of the inputs"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(folder, argv, said):
    if "exclude" in said:
        gathered(folder)
    done = run(folder, *argv)
    assert done.code == 2
    assert said in done.err
    assert not (folder / "b.aligned.safetensors").exists()


def test_a_loader_that_raises_is_told_by_its_own_line(folder):
    done = run(
        folder, "statistics", *AB, *MODEL, "--input-shape", "2,6", "--data", "data.py:broken"
    )
    assert done.code == 3
    assert "data.py:broken failed: OSError: the disk with the pictures is gone" in done.err
    assert 'data.py", line' in done.err and "Traceback" not in done.err
    assert not (folder / FILE).exists()


def test_batches_that_the_model_cannot_take_are_told(folder):
    done = run(
        folder, "statistics", *AB, *MODEL, "--input-shape", "2,6", "--data", "data.py:narrow"
    )
    assert done.code == 3
    assert "the model failed: RuntimeError" in done.err


@pytest.mark.parametrize("argv", [ACTIVATIONS, ("statistics", *AB)])
def test_more_units_than_fit_into_memory_are_refused(folder, argv):
    limit = ("--max-memory", "1KB")
    done = run(folder, *argv, *MODEL, *DATA, *limit)
    assert done.code == 4
    assert "comparing the units at 2 places takes about" in done.err
    assert "--stream last" in done.err


def test_activations_that_are_no_numbers_are_told(folder):
    shape = ("--input-shape", "2,6")
    done = run(folder, "statistics", *AB, *MODEL, *shape, "--data", "data.py:endless_numbers")
    assert done.code == 3
    assert "activations of model 1 are NaN or infinite" in done.err
