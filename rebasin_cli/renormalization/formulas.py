"""What is done to each unit of a merged layer: y <- scale y + shift, from means and deviations.

Source of the formulas: REPAIR (Jordan and others 2023, arXiv 2211.08403); RESCALE and RESHIFT as
in "Vanishing Feature" (arXiv 2402.05966). With m and s the mean and the deviation of a merged unit
before its nonlinearity, and the goals M and D the averages of those of its (aligned) parents:

    repair    scale = D / sqrt(s^2 + eps)    shift = M - scale m
    rescale   scale = D / sqrt(s^2 + eps)    shift = 0
    reshift   scale = 1                      shift = M - m

An average of units that agree in part has the mean of the parents but less of their variance:
s^2 = (D^2 / 2) (1 + r) for two of equal deviation and correlation r.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rebasin_cli.activations.layer_statistics import Goal
from rebasin_cli.activations.moments import Moments
from rebasin_cli.network.correctable_layers import Correction

EPS = 1e-5  # added to the merged variance, as the BatchNorm does that REPAIR inserts


Corrector = Callable[[Tensor, Tensor, Goal], Correction]


def repair(mean: Tensor, deviation: Tensor, goal: Goal) -> Correction:
    """Give each unit the mean and the deviation of the goal."""
    scale = rescale(mean, deviation, goal).scale
    return _where_alive(Correction(scale, goal.mean - scale * mean), deviation, goal)


def rescale(mean: Tensor, deviation: Tensor, goal: Goal) -> Correction:
    """Give each unit the deviation of the goal; its mean is multiplied too."""
    scale = goal.deviation / (deviation.square() + EPS).sqrt()
    return _where_alive(Correction(scale, torch.zeros_like(mean)), deviation, goal)


def reshift(mean: Tensor, deviation: Tensor, goal: Goal) -> Correction:
    """Give each unit the mean of the goal and leave its deviation."""
    scale = torch.ones_like(mean)
    return _where_alive(Correction(scale, goal.mean - mean), deviation, goal)


CORRECTORS: Mapping[str, Corrector] = {"repair": repair, "rescale": rescale, "reshift": reshift}


def correction_of(corrector: Corrector, found: Moments, goal: Goal, *, biased: bool) -> Correction:
    """Return what brings units with some moments to the goal.

    biased: whether the layer has a bias; without one nothing can be shifted.
    """
    made = corrector(found.mean, found.deviation, goal)
    return made if biased else replace(made, shift=torch.zeros_like(made.shift))


def _where_alive(made: Correction, deviation: Tensor, goal: Goal) -> Correction:
    """Leave units as they are that never change, in the merged model or in the parents.

    Dividing by sqrt(eps) would raise what is but rounding; and a goal of no deviation would cut
    off a unit that says something.
    """
    alive = (deviation > 0) & (goal.deviation > 0)
    one, zero = torch.ones_like(made.scale), torch.zeros_like(made.shift)
    return Correction(torch.where(alive, made.scale, one), torch.where(alive, made.shift, zero))
