"""Pictures of series: what is in them, and the page around them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rebasin_cli.commands.barrier.curve import Barrier, Peak
from rebasin_cli.commands.barrier.scored_points import Curves, FoundBarrier, JudgedPoints
from rebasin_cli.commands.barrier.series.plan import SeriesPair, SeriesPlan
from rebasin_cli.commands.barrier.series.run import JudgedPair, Series
from rebasin_cli.commands.barrier.series.series_plot import draw_series, series_figure
from tests.commands.barrier.test_pictures import place

NO_MODELS: Any = None  # a picture is drawn without them
HEIGHTS = {1.0: (2.0, 0.5), 2.0: (1.5, 0.25), 10.0: (1.0, 0.0)}


def curves_of(number, heights):
    found = [
        FoundBarrier(name, score, Barrier(Peak(height * share, 0.5), Peak(height * share, 0.5)))
        for score, share in (("loss", 1.0), ("top5_accuracy", 0.1))
        for name, height in zip(("naive", "aligned"), heights, strict=True)
    ]
    models = tuple(Path(f"a-long-name-of-a-run-{run}/epoch-{number:g}.pt") for run in "ab")
    notes = ("<odd>",) if number == 2 else ()
    survey = JudgedPoints(models, (), complete=True, seconds=1.0, notes=notes, hints=("try",))
    return Curves(survey, tuple(found))


def series(heights=HEIGHTS, *, wide=False):
    """Return a series without the models that it would come from."""
    pairs = tuple(
        JudgedPair(SeriesPair(number, 10, NO_MODELS), "epoch", curves_of(number, both))
        for number, both in heights.items()
    )
    plan = SeriesPlan((), "epoch", "number", "each", wide, None, None)
    return Series(plan, pairs, complete=True, seconds=3.0)


def test_a_panel_for_each_score_has_the_barriers_of_all_curves():
    loss, accuracy = series_figure(series()).axes
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == [
        "barrier of loss",
        "barrier of top5_accuracy",
    ]
    assert loss.get_xlabel() == "epoch"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["naive", "aligned"]
    naive, aligned = loss.get_lines()
    assert (list(naive.get_xdata()), list(naive.get_ydata())) == ([1, 2, 10], [2, 1.5, 1])
    assert list(aligned.get_ydata()) == [0.5, 0.25, 0]
    assert loss.get_xscale() == "linear"
    assert loss.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("places", "wide", "scale", "written"),
    [
        ((1, 2, 10), False, "linear", True),
        ((1, 2, 100), False, "linear", False),  # no room for 1 and 2
        ((16, 32, 512), True, "log", True),
        ((0, 32, 512), True, "linear", True),
        ((7,), False, "linear", True),
    ],
)
def test_places_are_written_where_there_is_room(places, wide, scale, written):
    axes = series_figure(series({float(p): (1.0, 0.0) for p in places}, wide=wide)).axes[0]
    assert axes.get_xscale() == scale
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert (ticks == [f"{place:g}" for place in places]) == written


def test_a_page_has_the_figures_and_says_which_pair_is_odd(tmp_path):
    draw_series(series(), place(tmp_path / "s.html"))
    text = (tmp_path / "s.html").read_text()
    assert "<h1>Barriers by epoch</h1>" in text
    assert text.count("<svg") == 1
    assert "<tr><td>10</td><td>a-long-name-of-a-run-a/epoch-10.pt</td>" in text
    assert "<td>1.5</td><td>0.25</td><td>0.15</td><td>0.025</td></tr>" in text
    assert "<td>none</td>" in text
    assert "<p>epoch 2: &lt;odd&gt;</p>" in text
    assert "<p>try</p>" in text


def test_a_series_without_any_barrier_can_be_drawn(tmp_path):
    found = series()
    bare = (replace(pair, curves=replace(pair.curves, barriers=())) for pair in found.pairs)
    figure = series_figure(replace(found, pairs=tuple(bare)))
    assert [axes.get_lines() for axes in figure.axes] == [[]]
