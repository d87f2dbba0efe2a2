"""How models are related: copies, fine-tunes, merges, or independent runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rebasin_cli.api.keywords import groups_of
from rebasin_cli.api.running import library_verb, model_list
from rebasin_cli.api.specs import NetworkLike, SpecLike, SpecSource, matching_problem
from rebasin_cli.api.tensors_in import Model, open_all
from rebasin_cli.commands.related.plan import check_number, related_plan
from rebasin_cli.commands.related.run import Kinship, run_related
from rebasin_cli.progress import silent

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options


@library_verb
def related(
    models: Iterable[Model],
    *,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> Kinship:
    """Return how two or more models are related, as `rebasin related` does.

    The result has in `pairs` the relation and the scores of each pair, and in `merges` the models
    that are means of others. The arguments are those of `match`. Raises UsageError for fewer than
    two models and if no matrix has units that can move, and what `match` raises.
    """
    models = model_list(models)
    check_number(models)
    groups = groups_of(SpecSource(spec).named, options)
    held = open_all(models, groups.selection)
    source = SpecSource(spec, model, inputs)
    found = matching_problem(held, models, source, groups, done="compared", rotated=True)
    plan = related_plan(found, groups.selection, search=groups.search)
    return next(each for each in run_related(plan, silent) if isinstance(each, Kinship))
