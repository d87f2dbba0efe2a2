"""The picture of what models are to each other: a heat map of the scores of all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import combinations
from typing import Any

from rebasin_cli.commands.related.kin import Kin, KinPair
from rebasin_cli.commands.related.run import Kinship
from rebasin_cli.commands.related.sentences import merge_sentence, verdict_sentence
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.pictures.drawing import Drawn, matplotlib, write_drawing
from rebasin_cli.pictures.html_document import document, picture, table
from rebasin_cli.pictures.model_names import model_names
from rebasin_cli.wording import count

CELL, SMALLEST, LARGEST = 0.75, 4.2, 24.0  # inches
LONGEST = 24  # letters of a name
DARK = 0.55  # a score from which letters on its colour are white
SCALE = 0.5  # inches: the width of the scale of colours, with the room before it
SAID = 10  # pairs up to which each has its sentence on the page, independent runs too


def draw_kinship(outcome: Kinship, place: OutputPlace) -> Drawn:
    """Write the picture of all pairs, in the format of the ending."""
    return Drawn(write_drawing(kinship_figure(outcome), place, lambda svg: _page(svg, outcome)))


def kinship_figure(outcome: Kinship) -> Any:
    """Return the matplotlib figure: a cell for each pair, its score in it, relatives together."""
    size, order = len(outcome.models), relatives_together(outcome)
    inches = min(max(SMALLEST, CELL * size + 2), LARGEST)
    figure = matplotlib("figure").Figure(figsize=(inches + 1, inches), layout="compressed")
    axes = figure.subplots()
    scores = [[_score(outcome, a, b) for b in order] for a in order]
    image = axes.imshow(scores, cmap="Blues", vmin=0, vmax=1)
    for a, row in enumerate(scores):
        for b, score in enumerate(row):
            if a != b:
                colour = "white" if score >= DARK else "#222222"
                axes.text(b, a, f"{score:.2f}", ha="center", va="center", color=colour, fontsize=9)
    every = model_names(outcome.models, LONGEST)
    names = [every[number] for number in order]
    axes.set_xticks(range(size), names, rotation=35, ha="right", fontsize=9)
    axes.set_yticks(range(size), names, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    scale = {"fraction": SCALE / inches, "pad": SCALE / inches / 2, "aspect": inches * 5}
    figure.colorbar(image, ax=axes, label="score: 0 unrelated, 1 a copy", shrink=0.8, **scale)
    return figure


def relatives_together(outcome: Kinship) -> list[int]:
    """Return the models in an order in which those of one family are beside one another.

    As leaves of a tree: the two clusters with the largest mean score become one, and so on.
    """
    clusters = [[number] for number in range(len(outcome.models))]
    while len(clusters) > 1:
        one, two = max(combinations(clusters, 2), key=lambda pair: _mean_score(outcome, *pair))
        clusters = [[*one, *two] if each is one else each for each in clusters if each is not two]
    return clusters[0]


def _mean_score(outcome: Kinship, one: Sequence[int], two: Sequence[int]) -> float:
    scores = [_score(outcome, a, b) for a in one for b in two]
    return sum(scores) / len(scores)


def _score(outcome: Kinship, a: int, b: int) -> float:
    return 1.0 if a == b else max(0.0, outcome.pair(a, b).excess)


def _page(svg: str, outcome: Kinship) -> str:
    """Return the page around a picture: the verdicts, and the figures of all pairs."""
    rows = [["A", "B", "relation", "score", "cosine", "null value", "kept"]]
    names = dict(zip(outcome.models, model_names(outcome.models), strict=True))
    rows += [[names[pair.a], names[pair.b], *_figures(pair)] for pair in outcome.pairs]
    said = [*map(merge_sentence, outcome.merges), *_verdicts(outcome)]
    parts = [
        "<h1>What the models are to each other</h1>",
        picture(svg, "the scores of all pairs, which the table below has too"),
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in said) + "</ul>",
        f"<h2>Pairs</h2>\n{table(rows)}",
    ]
    return document("What the models are to each other", parts)


def _verdicts(outcome: Kinship) -> list[str]:
    """Return a sentence for each pair; of many pairs one for all that are independent runs."""
    shown = [pair for pair in outcome.pairs if pair.kin is not Kin.INDEPENDENT]
    apart = len(outcome.pairs) - len(shown)
    if len(outcome.pairs) <= SAID or not apart:
        return [*map(verdict_sentence, outcome.pairs)]
    rest = f"{count(apart, 'pair')} of {len(outcome.pairs)} are independent runs"
    return [*map(verdict_sentence, shown), f"{rest}: nothing says that one comes from the other"]


def _figures(pair: KinPair) -> list[str]:
    near = pair.nearness
    figures = (near.cosine, near.null, near.kept) if near else ()
    shown = [f"{figure:.3f}" for figure in figures] or ["", "", ""]
    return [pair.kin.value, f"{pair.excess:.3f}", *shown]
