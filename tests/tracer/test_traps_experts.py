"""Traps 8, 9, 18 and 29: routers, ranks, and tensors whose numbers name units."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rebasin_cli.tracer.derivation.derive import UNSEEN
from tests.tracer.traps import EXACT, WRONG, Net, case, check, harm, noise, rows, weight

# The stream, the experts, and inside each expert its hidden units.
GROUPS = "s 8; E 4; h 6 per E"
STACKED = """
  inp.{weight,bias}: [s]
  router.weight: [E, s]
  router.bias: [E]
  up: [E, h, s]
  down: [E, s, h]
  out.weight: [~, s]
"""


def stacked(mix, tokens: int = 5, **members):
    """Return a mixture of 4 experts with 6 hidden units, all in one tensor."""
    net = Net(
        lambda m, x: m.out(_added(m, m.inp(x), mix)),
        inp=nn.Linear(5, 8),
        router=nn.Linear(8, 4),
        up=weight(4, 6, 8),
        down=weight(4, 8, 6),
        out=nn.Linear(8, 3),
        **members,
    )
    return rows(net, tokens, 5)


def _added(m, x, mix):
    return x + mix(m, x, m.router(x).softmax(-1))


def soft(m, x, share):
    made = torch.einsum("ehs,bs->beh", m.up, x).relu()
    return torch.einsum("esh,beh,be->bs", m.down, made, share)


def gathered(m, x, share):
    best, chosen = share.topk(2, -1)
    return _by_index(m, x, best, chosen)


def _by_index(m, x, best, chosen):
    made = (m.up[chosen] @ x[:, None, :, None]).relu()  # (batch, k, hidden, 1)
    return ((m.down[chosen] @ made).squeeze(-1) * best[..., None]).sum(1)


def centred(m, x, share):
    best, chosen = share.topk(2, -1)
    made = (m.up[chosen] @ x[:, None, :, None]).squeeze(-1)
    made = (made - made.mean(0)).relu()
    return torch.einsum("bksh,bkh,bk->bs", m.down[chosen], made, best)


def test_trap_10_a_mean_over_rows_that_went_to_different_experts_ties_their_units() -> None:
    given = stacked(centred)
    # Unit h of one expert is subtracted from unit h of another.
    found = check(given, "s 8; E 4; h 6", STACKED)
    assert harm(given, found, GROUPS, STACKED) >= WRONG


def one_hot(m, x, share):
    return soft(m, x, share * F.one_hot(share.argmax(-1), 4))


def scattered(m, x, share):
    best, chosen = share.topk(2, -1)
    return soft(m, x, torch.zeros_like(share).scatter(-1, chosen, best.softmax(-1)))


def masked(m, x, share):
    least = share.topk(2, -1).values[..., -1:]
    return soft(m, x, share.masked_fill(share < least, 0.0))


def sorted_best(m, x, share):
    best, chosen = share.sort(-1, descending=True)
    return _by_index(m, x, best[:, :3], chosen[:, :3])


@pytest.mark.parametrize("mix", [soft, gathered, one_hot, scattered, masked, sorted_best])
def test_trap_9_stacked_experts_with_units_of_their_own(mix) -> None:
    given = stacked(mix)
    found = check(given, GROUPS, STACKED)
    unrouted = STACKED.replace("router.weight: [E, s]", "router.weight: [~, s]")
    assert harm(given, found, GROUPS, unrouted) >= WRONG
    exchanged = STACKED.replace("down: [E, s, h]", "down: [~, s, h]")
    assert harm(given, found, "s 8; E 4; h 6", exchanged) >= WRONG


def two_best(m, x, share):
    first = share.argmax(-1, keepdim=True)
    second = share.scatter(-1, first, 0.0).argmax(-1, keepdim=True)
    chosen = torch.cat([first, second], -1)
    return _by_index(m, x, share.gather(-1, chosen), chosen)


def test_trap_8_indices_keep_their_meaning_through_a_concatenation() -> None:
    given = stacked(two_best)
    found = check(given, GROUPS, STACKED)
    # The router permuted without the experts: what happens when `cat` loses what indices name.
    frozen = STACKED.replace("up: [E", "up: [~").replace("down: [E", "down: [~")
    assert harm(given, found, "s 8; E 4; h 6", frozen) >= WRONG


def through_shapes(m, x, share):
    best, chosen = share.topk(2, -1)
    chosen = torch.stack(chosen.unbind(-1)).reshape(2, -1).t().clone()[:, :2]
    return _by_index(m, x, best, chosen)


def test_trap_8_indices_keep_their_meaning_through_views_and_stacks() -> None:
    check(stacked(through_shapes), GROUPS, STACKED)


def counted(m, x, share):
    best, chosen = share.topk(2, -1)
    return _by_index(m, x, best, chosen) * (1 + chosen.sum(-1, keepdim=True))


def compared(m, x, share):
    best, chosen = share.topk(2, -1)
    return _by_index(m, x, torch.where(chosen == 2, best, 2 * best), chosen)


@pytest.mark.parametrize("mix", [counted, compared])
def test_trap_8_computing_with_indices_fixes_what_they_name(mix) -> None:
    given = stacked(mix, tokens=12)
    found = check(given, "s 8; E 4 fixed; h 6 per E", STACKED)
    assert harm(given, found, GROUPS, STACKED) >= WRONG


def test_trap_8_an_index_that_is_an_output_fixes_what_it_names() -> None:
    given = rows(Net(lambda m, x: m.a(x).argmax(-1), a=nn.Linear(5, 6)), 4, 5)
    found = given.traced()
    assert found.bound.groups == {}


def test_rows_of_an_embedding_chosen_by_argmax_are_units_of_the_codebook() -> None:
    # Vector quantisation: the same codes that are compared are looked up.
    def run(m, x):
        x = m.a(x)
        code = (x @ m.book.weight.t()).argmax(-1)
        return m.out(m.book(code))

    net = Net(run, a=nn.Linear(5, 8), book=nn.Embedding(9, 8), out=nn.Linear(8, 3))
    text = "  a.{weight,bias}: [s]\n  book.weight: [code, s]\n  out.weight: [~, s]"
    given = rows(net, 6, 5)
    check(given, "s 8; code 9", text)


@pytest.mark.parametrize("kind", ["two ranks", "two indices"])
def test_trap_9_rows_of_two_indices_do_not_agree(kind) -> None:
    # Unit c of one code is added to unit c of another: the codes may not order them separately.
    def run(m, x):
        x = m.a(x)
        ranks = x.topk(2, -1).indices
        first = x.argmin(-1) if kind == "two indices" else ranks[:, 0]
        return m.out((m.book(first) + m.book(ranks[:, 1])).sort(-1).values)

    net = Net(run, a=nn.Linear(5, 7), book=nn.Embedding(7, 6), out=nn.Linear(6, 3))
    given = rows(net, 6, 5)
    text = "  a.{weight,bias}: [code]\n  book.weight: [code, c]"
    found = check(given, "code 7; c 6", text)
    assert harm(given, found, "code 7; c 6 per code", text) >= WRONG


def test_trap_9_sorted_columns_of_one_code_belong_to_that_code() -> None:
    net = Net(
        lambda m, x: m.out(m.book(m.a(x).argmax(-1)).sort(-1).values),
        a=nn.Linear(5, 7),
        book=nn.Embedding(7, 6),
        out=nn.Linear(6, 3),
    )
    text = "  a.{weight,bias}: [code]\n  book.weight: [code, c]"
    check(rows(net, 6, 5), "code 7; c 6 per code", text)


def modules(mix, tokens: int = 5):
    """Return the same mixture with experts as modules."""
    expert = [nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(4)]
    net = Net(
        lambda m, x: m.out(_added(m, m.inp(x), mix)),
        inp=nn.Linear(5, 8),
        router=nn.Linear(8, 4),
        experts=nn.ModuleList(expert),
        out=nn.Linear(8, 3),
    )
    return rows(net, tokens, 5)


# Experts are told apart by the names of their tensors only: they change places with the router's.
MODULES = """
  inp.{weight,bias}: [s]
  router.weight: [E, s]
  router.bias: [E]
  experts.[e].0.weight: [E, h, s]
  experts.[e].0.bias: [E, h]
  experts.[e].2.weight: [E, s, h]
  experts.[e].2.bias: [E, s]
  out.weight: [~, s]
"""


def all_modules(m, x, share):
    return (torch.stack([expert(x) for expert in m.experts], -1) * share[:, None]).sum(-1)


def routed_loop(m, x, share):
    best, chosen = share.max(-1)
    made = torch.zeros_like(x)
    for number, expert in enumerate(m.experts):
        picked = (chosen == number).nonzero()[:, 0]
        made.index_add_(0, picked, expert(x[picked]) * best[picked, None])
    return made


def skipping_loop(m, x, share):
    best, chosen = share.max(-1)
    made = torch.zeros_like(x)
    for number, expert in enumerate(m.experts):
        picked = (chosen == number).nonzero()[:, 0]
        if len(picked):
            made.index_add_(0, picked, expert(x[picked]) * best[picked, None])
    return made


def masked_loop(m, x, share):
    best, chosen = share.max(-1)
    made = torch.zeros_like(x)
    for number, expert in enumerate(m.experts):
        here = chosen == number
        made[here] = expert(x[here]) * best[here, None]
    return made


@pytest.mark.parametrize("mix", [all_modules, routed_loop, masked_loop])
def test_trap_18_experts_as_modules_change_names(mix) -> None:
    torch.manual_seed(2)  # a router that gives every expert some of the tokens
    given = modules(mix, tokens=40)
    found = check(given, GROUPS, MODULES)
    unrouted = MODULES.replace("router.weight: [E, s]", "router.weight: [~, s]")
    assert harm(given, found, GROUPS, unrouted) >= WRONG


def test_trap_18_experts_that_no_token_of_the_input_reaches_are_reached_by_others() -> None:
    torch.manual_seed(3)  # three of the experts are reached by the four tokens
    net = modules(skipping_loop).net
    found = check(case(net, noise(4, 5)), GROUPS, MODULES)
    assert found.unused == ()


# Heads of which each call runs one: the first, as traced.
TASKS = """
  {inp,norm}.{weight,bias}: [s]
  shifts.*: [s]
  heads.a.0.weight: [h, s]
  heads.a.0.bias: [h]
  heads.a.2.weight: [~, h]
  heads.{b,c}.0.weight: [~, s]
"""


def test_trap_18_members_of_lists_that_never_run_move_along_what_all_of_them_read() -> None:
    heads = {name: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)) for name in "abc"}
    net = Net(
        lambda m, x, task: m.heads["abc"[task]](m.norm(m.inp(x) + m.shifts[task])),
        inp=nn.Linear(5, 8),
        norm=nn.LayerNorm(8),
        heads=nn.ModuleDict(heads),
        shifts=nn.ParameterList([weight(8) for _ in heads]),
    )
    found = check(case(net, (noise(4, 5), 0)), "s 8; h 6", TASKS)
    idle = {"shifts.1", "shifts.2", "heads.b.0.weight", "heads.c.0.weight"}
    assert set(found.followers) == idle
    assert found.reasons["inp"] == UNSEEN  # folded, those heads would be left without a gain
    for task in (1, 2):
        other = case(net, (noise(4, 5), task))
        assert harm(other, found, "s 8; h 6", TASKS) <= EXACT


def chained(m, x):
    for layer in m.members[:2]:
        x = layer(x).relu()
    return x


def staged(m, x):
    first = m.a(x).relu()
    return torch.cat([m.members[0](first), m.members[1](m.b(first).relu())], -1)


@pytest.mark.parametrize("run", [chained, staged])
def test_trap_18_members_that_do_not_read_alike_do_not_tell_what_another_reads(run) -> None:
    net = Net(
        lambda m, x: m.out(run(m, m.inp(x))),
        inp=nn.Linear(5, 8),
        a=nn.Linear(8, 8),
        b=nn.Linear(8, 8),
        members=nn.ModuleList([nn.Linear(8, 8) for _ in range(3)]),
        out=nn.LazyLinear(3),
    )
    net(noise(4, 5))
    found = rows(net, 4, 5).traced()
    assert found.followers == ()
    assert {"members.2.weight", "members.2.bias"} <= set(found.unused)


def test_trap_29_the_ranks_of_sorted_units_are_fixed_but_the_units_are_not() -> None:
    net = Net(lambda m, x: m.b(m.a(x).sort(-1).values), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    given = rows(net, 4, 5)
    found = check(given, "h 8", "  a.{weight,bias}: [h]")
    assert harm(given, found, "h 8", "  a.{weight,bias}: [h]\n  b.weight: [~, h]") >= WRONG


def test_trap_29_the_largest_of_units_does_not_know_which_it_is() -> None:
    def run(m, x):
        x = m.a(x)
        return m.b(torch.stack([x.amax(-1), x.max(-1).values, x.topk(2, -1).values[:, 1]], -1))

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(3, 3))
    check(rows(net, 4, 5), "h 8", "  a.{weight,bias}: [h]")


def test_pieces_of_a_maxout_unit_are_its_own() -> None:
    net = Net(
        lambda m, x: m.b(m.a(x).unflatten(-1, (8, 3)).amax(-1)),
        a=nn.Linear(5, 24),
        b=nn.Linear(8, 3),
    )
    given = rows(net, 4, 5)
    found = check(given, "h 8; k 3 per h", '  a.{weight,bias}: ["h * k"]\n  b.weight: [~, h]')
    naive = '  a.{weight,bias}: ["k * h"]\n  b.weight: [~, h]'
    assert harm(given, found, "h 8; k 3", naive) >= WRONG
