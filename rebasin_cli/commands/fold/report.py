"""What folding found, for people and for programs."""

from __future__ import annotations

from rebasin_cli.folding.fold_report import FOLDED
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.presentation.presenter import Presenters

PRESENTERS: Presenters = {Folded: FOLDED}
