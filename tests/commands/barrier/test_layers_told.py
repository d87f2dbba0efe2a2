"""`barrier --diagnose`: the layers halfway, in a table, as fields, as a picture, and the advice."""

from dataclasses import replace

import pytest

from rebasin_cli.commands.barrier.layers.figures import LayerDiagnosis, LayerFigures
from rebasin_cli.commands.barrier.layers.report import advice, shown_columns
from tests.cli.harness import rebasin
from tests.commands.barrier.barrier_files import BARRIER, ON_DATA, write_normed, write_user

LAYER = LayerFigures("fc", "Linear", False, 8, 1.0, 1.0, 0.95, 0.9)


def layers(*changes):
    return LayerDiagnosis(
        tuple(replace(LAYER, name=f"fc{k}", **c) for k, c in enumerate(changes)), None
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            layers({}, {"variance": 0.21}),
            "variance falls to 0.21 of the parents' by the last layer, fc1: renormalize, as "
            "`rebasin renormalize --method rescale` does",
        ),
        (
            layers({"norm": True}, {"variance": 0.21}),
            "variance falls to 0.21 of the parents' by the last layer, fc1, and the statistics of "
            "BatchNorm no longer fit: renormalize, as `rebasin renormalize --method reset` does",
        ),
        (
            layers({}, {"variance": 3.0}),
            "variance rises to 3 of the parents' by the last layer, fc1: renormalize, as "
            "`rebasin renormalize --method rescale` does",
        ),
        (
            layers({"correlation": 0.1}, {}),
            "at fc0 the parents say the same (CKA 0.95), but not unit by unit (correlation 0.1): "
            "align them with --effort best, or merge units that are mixed "
            "(`rebasin merge --method zipit`)",
        ),
        (
            layers({"correlation": 0.1, "similarity": 0.3}, {}),
            "the parents differ at fc0 (CKA 0.3) in more than the order of their units: no "
            "alignment makes them one",
        ),
        (
            layers({"correlation": 0.1, "similarity": 0.3}, {"variance": 0.7}),
            "the parents differ at fc0 (CKA 0.3) in more than the order of their units: no "
            "alignment makes them one",
        ),
        (
            layers({}, {"variance": 0.7}),
            "variance falls to 0.7 of the parents' by the last layer, fc1: renormalize, as "
            "`rebasin renormalize --method rescale` does",
        ),
        (layers({}, {}), "the midpoint's activations are like the parents'"),
        (layers({}, {"variance": None}), "the midpoint's activations are like the parents'"),
        # what the last layer answers is matched by its classes, not by an alignment
        (layers({}, {"correlation": 0.1}), "the midpoint's activations are like the parents'"),
    ],
)
def test_the_advice_follows_from_the_figures(found, said):
    assert advice(found) == said


def test_columns_that_no_layer_has_are_left_out():
    found = layers({"response": None}, {"response": None, "similarity": None})
    names = [name for name, _ in shown_columns(found)]
    assert names == ["variance ratio", "CKA of parents", "matched correlation"]


def test_a_planted_order_leaves_nothing_to_repair_once_aligned(tmp_path):
    write_user(tmp_path)
    done = rebasin(*ON_DATA, "--steps", "3", "--diagnose", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    event = next(e for e in done.events if "layers" in e)
    assert (event["event"], event["command"], event["aligned"]) == ("result", "barrier", True)
    assert [layer["name"] for layer in event["layers"]] == ["0", "2", "4", "6"]
    for layer in event["layers"]:
        for name in ("variance", "response", "similarity", "correlation"):
            assert layer[name] == pytest.approx(1, abs=0.05), (layer, name)
    assert set(event["calibration"]) == {"a", "b", "midpoint"}
    assert event["no_response"] is None
    assert event["advice"] == "the midpoint's activations are like the parents'"


def test_without_alignment_the_variance_falls_and_the_units_do_not_match(tmp_path):
    write_user(tmp_path)
    done = rebasin(*ON_DATA, "--steps", "3", "--diagnose", "--no-align", cwd=tmp_path)
    assert done.code == 0, done.err
    head = next(line for line in done.lines if line.startswith("layer"))
    assert head.split() == [
        *("layer", "kind", "units", "variance", "ratio", "response", "ratio"),
        *("CKA", "of", "parents", "matched", "correlation"),
    ]
    last = next(line for line in done.lines if line.startswith("6 ")).split()
    assert last[:3] == ["6", "Linear", "4"]
    assert float(last[3]) < 0.8
    assert done.lines[-1].startswith("expected calibration error: A ")
    assert "the parents say the same" in done.err
    assert "but not unit by unit" in done.err


def test_batch_norm_counts_as_a_layer_of_its_own(tmp_path):
    write_user(tmp_path)
    write_normed(tmp_path)
    done = rebasin(
        *("barrier", "n.safetensors", "m.safetensors", "--no-align", "--model", "user.py:normed"),
        *("--data", "user.py:batches", "--steps", "2", "--diagnose", "--json"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    event = next(e for e in done.events if "layers" in e)
    assert [layer["kind"] for layer in event["layers"]] == ["Linear", "BatchNorm1d", "Linear"]
    assert [layer["norm"] for layer in event["layers"]] == [False, True, False]
    assert "--method reset" in event["advice"]


@pytest.mark.parametrize(
    "ending", ["png", *(pytest.param(e, marks=pytest.mark.slow) for e in ("svg", "html"))]
)
def test_the_picture_of_the_layers_stands_beside_that_of_the_curves(tmp_path, ending):
    write_user(tmp_path)
    pytest.importorskip("matplotlib")
    argv = ("--steps", "3", "--diagnose", "--plot", f"c.{ending}")
    done = rebasin(*ON_DATA, *argv, cwd=tmp_path)
    assert done.code == 0, done.err
    data = (tmp_path / f"c-layers.{ending}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>"}[ending])
    assert (tmp_path / f"c.{ending}").exists()
    again = rebasin(*ON_DATA, *argv, cwd=tmp_path)
    assert again.code != 0
    assert f"c.{ending}" in again.err


def test_models_without_data_or_in_a_plane_are_refused(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--diagnose")
    done = rebasin(*argv, cwd=tmp_path)
    assert (done.code, "there is no data to run the model on" in done.err) == (2, True)
    done = rebasin(*ON_DATA, "a.safetensors", "--plane", "--diagnose", cwd=tmp_path)
    assert (done.code, "--diagnose is for two models, not for --plane" in done.err) == (2, True)


def test_points_that_are_kept_do_not_keep_the_layers_from_being_looked_at(tmp_path):
    write_user(tmp_path)
    argv = (*ON_DATA, "--steps", "3", "--resume", "points.ndjson", "--diagnose", "--json")
    first, second = rebasin(*argv, cwd=tmp_path), rebasin(*argv, cwd=tmp_path)
    found = [next(e for e in done.events if "layers" in e) for done in (first, second)]
    assert found[0]["layers"] == found[1]["layers"]
