"""Pictures of curves and planes: what is in them, when they are refused, what they need."""

import struct
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from rebasin_cli.commands.barrier.curve import Barrier, Peak
from rebasin_cli.commands.barrier.plane import Plane
from rebasin_cli.commands.barrier.plot import draw, figure_of
from rebasin_cli.commands.barrier.scored_points import (
    Contour,
    Curves,
    FoundBarrier,
    JudgedPoints,
    MixturePoint,
    Scored,
)
from rebasin_cli.errors import MachineError
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.network.scoring.ensemble import Ensemble
from rebasin_cli.pictures.drawing import require_matplotlib
from tests.cli.harness import rebasin
from tests.commands.barrier.barrier_files import BARRIER, write_user

MODELS = (Path("a.pt"), Path("b.pt"), Path("c.pt"))


def survey(points, models):
    return JudgedPoints(
        MODELS[:models], tuple(points), complete=True, seconds=1.0, notes=("<odd>",)
    )


def curves():
    heights = {0.0: 1.0, 0.5: 3.0, 1.0: 1.0}
    names = {"naive": 1.0, "aligned": 0.5, "aligned, reset": 0.1}
    points = [
        Scored(
            MixturePoint(name, (1 - alpha, alpha)),
            {"loss": 1 + share * (height - 1), "accuracy": 1 / height},
            0.0,
            {},
        )
        for name, share in names.items()
        for alpha, height in heights.items()
    ]
    barriers = tuple(
        FoundBarrier(name, "loss", Barrier(Peak(2 * share, 0.5), Peak(2 * share, 0.5)), 1 - share)
        for name, share in names.items()
    )
    return Curves(survey(points, 2), barriers)


def test_the_ensemble_is_a_dashed_line_across_and_a_table_of_the_page(tmp_path):
    found = replace(curves(), ensemble=Ensemble({"loss": 0.75}))
    loss, accuracy = figure_of(found).axes
    assert loss.get_legend().get_texts()[-1].get_text() == "ensemble: 0.75"
    (line,) = [line for line in loss.lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [0.75, 0.75]
    assert not [line for line in accuracy.lines if line.get_linestyle() == "--"]
    draw(found, place(tmp_path / "p.html"))
    assert "<h2>Ensemble</h2>" in (tmp_path / "p.html").read_text()


def contour():
    plane = Plane(2.0, (0.5, 2.0))
    places = [*plane.corners, *plane.grid(3, 0.2)]
    points = [
        Scored(MixturePoint("plane", plane.weights(at), at), {"loss": sum(at)}, 0.0, {})
        for at in places
    ]
    return Contour(survey(points, 3), plane)


def place(path, overwrite=False):
    return OutputPlace(path, overwrite=overwrite, skip=False, folder=None)


def test_a_panel_for_each_score_with_its_curves_ends_and_barriers_named():
    loss, accuracy = figure_of(curves()).axes
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == ["loss", "accuracy"]
    assert loss.get_xlabel() == "alpha\n0 is a.pt, 1 is b.pt"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "naive: barrier 2 at 0.5",
        "aligned: barrier 1 at 0.5",
        "aligned, reset: barrier 0.2 at 0.5",
        "the two models",
    ]
    assert accuracy.get_legend().get_texts()[0].get_text() == "naive"
    bars = [collection.get_segments()[0].tolist() for collection in loss.collections]
    assert bars[0] == [[0.5, 1.0], [0.5, 3.0]]
    naive = loss.get_lines()[0]
    assert (list(naive.get_xdata()), list(naive.get_ydata())) == ([0, 0.5, 1], [1, 3, 1])


def test_no_text_of_a_picture_covers_another_or_leaves_it():
    figure = figure_of(curves())
    figure.draw_without_rendering()
    whole = figure.bbox
    for axes in figure.axes:
        legend, label = axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()
        ticks = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks()]
        assert legend.y0 >= axes.get_window_extent().y1
        assert not any(label.overlaps(tick) for tick in ticks)
        for box in (legend, label):
            assert whole.x0 <= box.x0
            assert box.x1 <= whole.x1
            assert whole.y0 <= box.y0
            assert box.y1 <= whole.y1


def test_a_plane_shows_its_models_and_a_scale():
    axes, scale = figure_of(contour()).axes
    assert [text.get_text() for text in axes.texts] == ["A", "B", "C"]
    assert axes.get_title(loc="left") == "A  a.pt\nB  b.pt\nC  c.pt"
    assert scale.get_ylabel() == "loss"


@pytest.mark.parametrize("make", [curves, pytest.param(contour, marks=pytest.mark.slow)])
def test_each_ending_has_its_format_and_the_same_bytes_every_time(tmp_path, make):
    for ending in (".png", ".svg", ".html"):
        first, second = (
            draw(make(), place(tmp_path / f"{n}{ending}")).written.sha256 for n in "xy"
        )
        assert first == second
    png = (tmp_path / "x.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24])[0] > 800
    assert ET.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")


def test_a_page_needs_nothing_else_and_has_the_numbers(tmp_path):
    draw(curves(), place(tmp_path / "x.html"))
    text = (tmp_path / "x.html").read_text()
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 1
    assert "<?xml" not in text
    assert "<script" not in text
    assert "src=" not in text
    assert "<td>aligned, reset</td><td>loss</td><td>0.2</td><td>0.5</td><td>90.0 %</td>" in text
    assert "<td>0.5</td><td>3</td><td>0.333333</td>" in text
    assert "<p>&lt;odd&gt;</p>" in text


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MachineError, match="a picture needs the package matplotlib") as told:
        require_matplotlib()
    assert told.value.problems[0].hint == "pip install 'rebasin-cli[plot]'"


def test_a_curve_is_drawn_when_it_is_whole_and_replaced_only_with_force(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--steps", "3", "--no-align")
    done = rebasin(*argv, "--plot", "c.svg", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "drawn: c.svg" in done.err
    again = rebasin(*argv, "--plot", "c.svg", cwd=tmp_path)
    assert again.code == 2
    assert "c.svg exists" in again.err
    done = rebasin(*argv, "--plot", "c.svg", "-f", "--json", cwd=tmp_path)
    event = next(event for event in done.events if "plot" in event)
    assert (event["plot"], event["bytes"]) == ("c.svg", (tmp_path / "c.svg").stat().st_size)
    assert "path" not in event
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()).count(".svg") == 1


def test_nothing_is_drawn_of_a_curve_that_breaks_off(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:third_fails", "--steps", "5", "--plot", "c.svg")
    assert rebasin(*argv, cwd=tmp_path).code == 3
    assert not (tmp_path / "c.svg").exists()
