"""What aligning models found, for people and for programs."""

from __future__ import annotations

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.alignment.report import ALIGNED
from rebasin_cli.presentation.presenter import Presenters

PRESENTERS: Presenters = {Aligned: ALIGNED}
