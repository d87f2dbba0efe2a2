"""What many models are to each other: families, and of each model its nearest relative."""

from __future__ import annotations

from dataclasses import dataclass

from rich.markup import escape
from rich.table import Column

from rebasin_cli.commands.related.kin import KinPair
from rebasin_cli.commands.related.run import Kinship
from rebasin_cli.presentation.tables import number_columns, render, table
from rebasin_cli.wording import count

MANY = 6  # models up to which each pair has its sentence: 15 of them


@dataclass(frozen=True)
class PairOfMany:
    """A pair among so many that it is told to programs alone."""

    pair: KinPair


@dataclass(frozen=True)
class Families:
    """Many models, to be told of as families."""

    kinship: Kinship


def families_of(kinship: Kinship) -> list[list[int]]:
    """Return the models in families, the largest first: who is related to one of it is of it."""
    families = [[number] for number in range(len(kinship.models))]
    for number in range(len(kinship.models)):
        mine = [
            family
            for family in families
            if number in family or any(kinship.pair(number, b).kin.related for b in family)
        ]
        joined = sorted(member for family in mine for member in family)
        families = [*(family for family in families if family not in mine), joined]
    return sorted(families, key=lambda family: (-len(family), family))


def families_text(outcome: Families) -> str:
    """Return a table with a row for each model: its family, and who is nearest to it."""
    kinship, paths = outcome.kinship, ("model", "nearest")
    model, nearest = (Column(heading, overflow="fold") for heading in paths)
    (score,) = number_columns("score", no_wrap=True)
    shown = table(Column("family", no_wrap=True), model, nearest, "relation", score)
    for place, family in enumerate(families_of(kinship), 1):
        for number in family:
            other = _nearest(kinship, number)
            pair = kinship.pair(number, other)
            names = (escape(str(kinship.models[each])) for each in (number, other))
            shown.add_row(
                str(place) if len(family) > 1 else "alone",
                *names,
                pair.kin.value,
                f"{pair.excess:.2f}",
            )
    return render(shown).rstrip("\n")


def families_summary(outcome: Families) -> str:
    """Return how many pairs there are, and where more is said of them."""
    pairs = outcome.kinship.pairs
    related = sum(pair.kin.related for pair in pairs)
    return f"{related} of {count(len(pairs), 'pair')} are related: -v has a sentence for each"


def _nearest(kinship: Kinship, number: int) -> int:
    """Return the model that is most like another: a relative, if it has any."""
    others = [other for other in range(len(kinship.models)) if other != number]

    def nearness(other: int) -> tuple[bool, float]:
        pair = kinship.pair(number, other)
        return pair.kin.related, pair.excess

    return max(others, key=nearness)
