"""What aligning by permutations found: shown as by every command that aligns."""

from __future__ import annotations

from rebasin_cli.alignment.report import PERMUTING
from rebasin_cli.presentation.presenter import Presenters

PRESENTERS: Presenters = PERMUTING
