"""Merges of fine-tunes over their base: named with their coefficients, and nothing else is."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import rebasin_cli as rb
from rebasin_cli.commands.related.base_merges import Gram, exact_merges, kept_entries
from tests.cli.build import save, shuffled
from tests.cli.harness import rebasin
from tests.commands.related.related_nets import base, trained

BASE = cache(base)(0)
TUNES = [trained(BASE, task) for task in (5, 6, 7)]
FILES = [f"{name}.safetensors" for name in ("base", "one", "two", "three", "m")]


def arithmetic(*weights):
    """Return the base and the differences of the fine-tunes, times weights."""
    parts = list(zip(weights, TUNES, strict=False))
    return {n: v + sum(w * (tune[n] - v) for w, tune in parts) for n, v in BASE.items()}


def kept(density, *, scale, disjoint):
    """Return a merge of the first two fine-tunes by TIES; not `disjoint`: by DARE."""
    generator, made = torch.Generator().manual_seed(0), {}
    for name, value in BASE.items():
        changes = torch.stack([tune[name] - value for tune in TUNES[:2]])
        if disjoint:
            edges = [change.abs().flatten().quantile(1 - density) for change in changes]
            there = torch.stack([c.abs() >= e for c, e in zip(changes, edges, strict=True)])
            there &= changes.sign() == (changes * there).sum(0).sign()
            made[name] = value + scale * (changes * there).sum(0) / there.sum(0).clamp_min(1)
        else:
            there = torch.rand(changes.shape, generator=generator) < density
            made[name] = value + scale * (changes * there / density).sum(0)
    return made


def merges(*models):
    return rb.related(list(models)).merges


def test_a_merge_by_task_arithmetic_is_named_with_its_coefficients(tmp_path):
    merged = shuffled(arithmetic(0.8, -0.7))
    for file, state in zip(FILES, [BASE, *TUNES, merged], strict=True):
        save(tmp_path / file, state)
    done = rebasin("related", *FILES, "--json", cwd=tmp_path)
    (event,) = (e for e in done.events if "merge" in e)
    assert event["verdict"] == (
        "m.safetensors is a merge by task arithmetic: base.safetensors "
        "+0.80 (one.safetensors - base.safetensors) -0.70 (two.safetensors - base.safetensors)"
    )
    assert (event["merge"], event["base"], event["parents"]) == (FILES[4], FILES[0], FILES[1:3])
    assert event["shares"] == pytest.approx([0.8, -0.7], abs=1e-5)
    assert event["left"] < 1e-5


@pytest.mark.parametrize(
    ("weights", "dtype"), [((1.0, 1.0), torch.float32), ((0.6, 0.6, 0.5), torch.bfloat16)]
)
def test_coefficients_are_found_to_the_rounding_of_the_merge(weights, dtype):
    merged = {name: value.to(dtype) for name, value in arithmetic(*weights).items()}
    (found,) = merges(BASE, *TUNES[: len(weights)], merged)
    assert found.shares == pytest.approx(weights, abs=0.02)
    assert found.base is not None
    assert (found.base.name, found.kept) == ("model 1", None)


def test_a_mean_with_the_base_is_a_mean():
    (found,) = merges(BASE, *TUNES, arithmetic(0.3, 0.3))
    assert found.base is None
    assert found.shares == pytest.approx([0.4, 0.3, 0.3], abs=1e-4)


@pytest.mark.parametrize(("scale", "disjoint"), [(0.7, True), (1.0, False)], ids=["TIES", "DARE"])
def test_a_merge_that_keeps_entries_is_named_with_those_it_keeps(scale, disjoint):
    (found,) = merges(BASE, *TUNES, kept(0.5, scale=scale, disjoint=disjoint))
    assert [path.name for path in found.parents] == ["model 2", "model 3"]
    factor = scale if disjoint else 2 * scale
    assert found.shares == pytest.approx([factor, factor], rel=1e-3)
    assert found.kept is not None
    assert found.kept > 0.95


def between(share):
    return {n: (1 - share) * v + share * TUNES[0][n] for n, v in BASE.items()}


def test_models_on_one_line_are_means_of_its_ends():
    found = merges(BASE, TUNES[0], *map(between, (0.25, 0.5, 0.75)))
    told = [(m.model.name, [p.name for p in m.parents], m.base) for m in found]
    assert told == [(f"model {k}", ["model 1", "model 2"], None) for k in (3, 4, 5)]
    shares = [share for merge in found for share in merge.shares]
    assert shares == pytest.approx([0.75, 0.25, 0.5, 0.5, 0.25, 0.75], abs=1e-4)


def test_merges_of_the_same_models_are_not_named_as_made_of_one_another():
    found = merges(BASE, *TUNES[:2], arithmetic(0.9, 0.5), arithmetic(0.5, 0.9))
    assert [[path.name for path in m.parents] for m in found] == [["model 2", "model 3"]] * 2
    assert [m.base and m.base.name for m in found] == ["model 1"] * 2
    assert found[0].shares == pytest.approx([0.9, 0.5], abs=1e-4)
    assert found[1].shares == pytest.approx([0.5, 0.9], abs=1e-4)


def test_a_model_its_copy_and_a_fine_tune_are_no_merges():
    assert merges(BASE, dict(BASE), TUNES[0]) == ()


def test_fine_tunes_of_one_base_are_no_merges_of_one_another():
    assert merges(BASE, *TUNES) == ()
    assert merges(*TUNES) == ()


def test_what_is_no_sum_of_differences_to_rounding_is_no_merge():
    generator = torch.Generator().manual_seed(0)
    noisy = {n: v + 1e-4 * torch.randn(v.shape, generator=generator)
             for n, v in arithmetic(0.8, -0.7).items()}  # fmt: skip
    assert merges(BASE, *TUNES[:2], noisy) == ()


def test_a_fine_tune_that_was_tuned_further_in_part_is_no_merge():
    generator = torch.Generator().manual_seed(0)
    entries = torch.randn(4, 8000, generator=generator, dtype=torch.float64)
    steps = [entries[0]]
    for k, change in enumerate(entries[1:]):
        tuned = torch.zeros(8000, dtype=torch.bool)
        tuned[2000 * k : 2000 * (k + 1)] = True
        steps.append(steps[-1] + 0.1 * change * tuned)
    rows = torch.stack(steps)
    apart = rows - rows[0]
    gram = Gram(apart @ apart.mT, [1e-6] * 4, rows, [1e-7] * 4)
    assert kept_entries(gram, range(4)) == []
    assert exact_merges(gram) == []
