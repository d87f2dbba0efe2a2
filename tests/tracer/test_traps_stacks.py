"""Features that are stacked, each row with a meaning of its own, and multiplied by each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tracer.traps import WRONG, Net, check, harm, rows


@pytest.mark.parametrize(
    "products",
    [
        lambda v: v @ v.mT,
        lambda v: F.cosine_similarity(v[:, :, None], v[:, None], dim=-1),
        lambda v: torch.einsum("nid,njd->nij", v, v),
        lambda v: torch.cdist(v, v),
    ],
)
def test_each_pair_of_stacked_features_is_multiplied_so_they_share_one_order(products) -> None:
    def run(m, x):
        return m.c(products(torch.stack([m.a(x), m.b(x)], 1)).flatten(1))

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(4, 2))
    text = "  {a,b}.{weight,bias}: [d]\n"
    found = check(rows(net, 2, 5), "d 8", text)
    assert harm(rows(net, 2, 5), found, "d 8", "  a.{weight,bias}: [d]\n") >= WRONG


def test_pairs_of_two_stacks_whose_rows_are_one_share_one_order() -> None:
    # Added, the two stacks have rows of one kind: (a, e) and (b, f). Each is multiplied by both.
    def run(m, x):
        one, two = torch.stack([m.a(x), m.b(x)], 1), torch.stack([m.e(x), m.f(x)], 1)
        pairs = (one[:, :, None] * two[:, None]).sum(-1).flatten(1)
        return m.c(pairs) + m.g((one + two).sum(2))

    parts = {name: nn.Linear(5, 8) for name in "abef"}
    given = rows(Net(run, **parts, c=nn.Linear(4, 2), g=nn.Linear(2, 2)), 2, 5)
    found = check(given, "d 8", "  {a,b,e,f}.{weight,bias}: [d]\n")
    apart = "  {a,e}.{weight,bias}: [d]\n  {b,f}.{weight,bias}: [h]\n"
    assert harm(given, found, "d 8; h 8", apart) >= WRONG


def test_rows_that_stand_twice_give_no_order_to_what_is_inside() -> None:
    # Of (i, j, d) the order of d follows i; seen as (i, j * d) it must not be taken to follow j.
    def run(m, x):
        both = torch.stack([m.a(x), m.b(x)], 1)
        times = both[:, :, None] * both.sum(2)[:, None, :, None]
        return m.c(times.flatten(2)).flatten(1)

    given = rows(Net(run, a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(16, 3)), 2, 5)
    found = check(given, "d 8", '  {a,b}.{weight,bias}: [d]\n  c.weight: [~, "2 * d"]\n')
    apart = '  a.{weight,bias}: [d]\n  b.{weight,bias}: [h]\n  c.weight: [~, "d + h"]\n'
    assert harm(given, found, "d 8; h 8", apart) >= WRONG


def test_distances_of_batches_that_are_broadcast() -> None:
    def run(m, x):
        both = torch.stack([m.a(x), m.b(x)], 1)
        return m.c(torch.cdist(both[:, :, None, None], both[:, None, :, None]).flatten(1))

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(4, 2))
    check(rows(net, 2, 5), "d 8", "  {a,b}.{weight,bias}: [d]\n")
