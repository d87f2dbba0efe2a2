"""Traps 5, 20, 21, 26 and 27: constants, writing in place, numbers and their types."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rebasin_cli.tensors.compare import ACCEPTED
from tests.tracer.traps import (
    EXACT,
    HIDDEN,
    WRONG,
    Net,
    case,
    check,
    harm,
    ids,
    mlp,
    noise,
    nothing_moves,
    rows,
    weight,
)  # fmt: skip


def test_trap_5_a_uniform_constant_at_two_places_ties_nothing() -> None:
    def run(m, x):
        ones = torch.ones(8, dtype=x.dtype)
        return m.c((m.b((m.a(x) * ones).relu()) * ones).relu())

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3))
    text = "  a.{weight,bias}: [a]\n  b.weight: [b, a]\n  b.bias: [b]\n  c.weight: [~, b]"
    check(rows(net, 2, 5), "a 8; b 8", text)


def test_trap_5_a_constant_that_varies_fixes_units() -> None:
    given = mlp(lambda m, x: x * torch.arange(8.0, dtype=x.dtype))
    found = nothing_moves(given)
    assert harm(given, found, "h 8", HIDDEN) >= WRONG
    assert {axis.reason for axis in found.fixed if axis.tensor == "a.bias"} == {"constant"}


def test_trap_5_zeros_that_are_written_into_are_no_constant() -> None:
    def run(m, x):
        both = torch.zeros(x.shape[0], 12, dtype=x.dtype)
        both[:, :8].copy_(m.a(x))
        both[:, 8:] = m.b(x)
        return m.c(both.relu()) + both.sum(-1, keepdim=True)

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(5, 4), c=nn.Linear(12, 3))
    text = '  a.{weight,bias}: [a]\n  b.{weight,bias}: [b]\n  c.weight: [~, "%s"]'
    given = rows(net, 3, 5)
    found = check(given, "a 8; b 4", text % "a + b")
    assert harm(given, found, "a 8; b 4", text % "b + a") >= WRONG


def test_trap_26_writing_into_a_part_cuts_the_axis() -> None:
    def change(m, x):
        x[:, :5] *= 2
        x[:, 6].zero_()
        x.add_(1).relu_()
        return x

    # Units 0 to 4 are doubled, unit 6 is wiped out; 5 and 7 stand alone.
    check(mlp(change), "p 5", '  a.{weight,bias}: ["p + 3"]\n  b.weight: [~, "p + 3"]')


def test_trap_26_views_of_one_tensor_share_their_units() -> None:
    def change(m, x):
        copy = x.clone()
        view = copy.view(-1, 2, 4)
        view.add_(m.c(x)[:, None])
        return copy

    # Both halves get the same 4 numbers.
    given = mlp(change, c=nn.Linear(8, 4))
    text = """
  a.{weight,bias}: ["o * i"]
  c.weight: [i, "o * i"]
  c.bias: [i]
  b.weight: [~, "o * i"]
"""
    check(given, "o 2; i 4", text)


def test_trap_26_writing_at_indices_fixes_places_only() -> None:
    def run(m, x):
        places = torch.zeros(x.shape[0], 7, 8, dtype=x.dtype)
        places.index_put_((torch.arange(x.shape[0])[:, None], m.where[None]), m.a(x))
        places.index_add_(1, m.where, m.a(x))
        return m.b(places.relu().cumsum(1))

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3), where=torch.tensor([4, 0, 5]))
    check(rows(net, 2, 3, 5), "h 8", HIDDEN)


def test_trap_27_integers_stay() -> None:
    def run(m, x):
        return m.b(m.norm(m.a(x)) + m.places(m.position_ids[: x.shape[0]]))

    net = Net(
        run,
        a=nn.Linear(5, 8),
        norm=nn.BatchNorm1d(8),
        places=nn.Embedding(9, 8),
        position_ids=torch.arange(9),
        b=nn.Linear(8, 3),
    )
    text = HIDDEN + "  norm.{weight,bias,running_mean,running_var}: [h]\n  places.weight: [~, h]"
    found = check(rows(net, 3, 5), "h 8", text)
    assert "norm.num_batches_tracked" in found.bound.untouched
    assert "position_ids" in found.bound.untouched


def test_trap_20_numbers_in_float32_inside_are_accepted_and_said() -> None:
    found = mlp(lambda m, x: x.float().softmax(-1).to(x.dtype)).traced()
    assert found.proof is not None
    assert found.proof.refuted == {}
    assert EXACT < found.proof.difference <= ACCEPTED
    assert [group.size for group in found.bound.groups.values()] == [8]


def test_trap_20_a_network_that_breaks_in_float64_is_proved_in_float32() -> None:
    found = mlp(lambda m, x: x if x.dtype == torch.float32 else x * torch.nan).traced()
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.dtype) == ({}, torch.float32)
    assert found.proof.difference <= ACCEPTED
    assert [group.size for group in found.bound.groups.values()] == [8]


def test_trap_21_a_branch_that_is_nearly_switched_off_hides_no_error() -> None:
    # LayerScale of 1e-6, zero biases, unit norms: as it is built, a wrong order changes nothing.
    def run(m, x):
        x = m.inp(x)
        return m.out(x + m.scale * m.b(m.norm(m.a(x))))

    net = Net(
        run,
        inp=nn.Linear(5, 8),
        a=nn.Linear(8, 6),
        norm=nn.LayerNorm(6),
        b=nn.Linear(6, 8),
        scale=nn.Parameter(torch.full((8,), 1e-6)),
        out=nn.Linear(8, 3),
    )
    nn.init.zeros_(net.a.bias)
    text = """
  inp.{weight,bias}: [s]
  a.weight: [h, s]
  b.{bias}: [s]
  norm.weight: [h]
  out.weight: [~, s]
""".replace("{bias}", "bias")
    given = rows(net, 2, 5)
    right = text + "  a.bias: [h]\n  norm.bias: [h]\n  scale: [s]\n  b.weight: [s, h]"
    found = check(given, "s 8; h 6", right)
    for tensor in ("a.bias: [h]", "norm.bias: [h]", "scale: [s]", "b.weight: [s, h]"):
        wrong = right.replace(tensor, tensor.replace("[s]", "[~]").replace("h]", "~]"))
        assert harm(given, found, "s 8; h 6", wrong) >= WRONG, tensor


def test_trap_30_types_and_checks_do_not_matter() -> None:
    def change(m, x):
        if not torch.isfinite(x).all() or x.abs().max().item() > 1e9:
            raise ValueError("too large")
        torch._assert_async((x * 0 == 0).all())
        return x.to(torch.float64).contiguous().clone().detach().to(m.b.weight.dtype)

    check(mlp(change), "h 8", HIDDEN)


def test_trap_30_a_branch_on_all_units_leaves_them_free() -> None:
    given = mlp(lambda m, x: x.relu() if x.sum() > 0 else x.tanh())
    check(given, "h 8", HIDDEN)


def test_trap_30_a_branch_on_the_input_leaves_units_free() -> None:
    net = Net(
        lambda m, x: m.b(m.a(x).relu() if x[0, 0] > 0 else m.a(x).tanh()),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 3),
    )
    check(rows(net, 3, 5), "h 8", HIDDEN)


@pytest.mark.parametrize(
    "steer",
    [
        lambda x: float(x[0, 0]) > float(x[0, 1]),
        lambda x: bool(x[0].argmax() % 2),
        lambda x: x[:, :1].relu().nonzero().shape[0] % 2 == 0,
        lambda x: bool((x * torch.linspace(-1, 1, 8, dtype=x.dtype)).sum() > 0),
    ],
    ids=["compared", "argmax", "counted", "weighted"],
)
def test_trap_30_a_branch_on_single_units_fixes_them(steer) -> None:
    # Nothing that is computed depends on the number, but the program does.
    given = mlp(lambda m, x: x.relu() if steer(x) else x.tanh())
    found = given.traced()
    assert found.proof is not None
    assert found.proof.refuted == {}
    assert max((group.size for group in found.bound.groups.values()), default=0) < 8
    assert harm(given, found, "h 8", HIDDEN) >= WRONG


def test_random_numbers_for_places_leave_units_free() -> None:
    def run(m, x):
        kept = torch.rand(x.shape[:2]).argsort(-1)[:, :3, None]
        x = m.a(x)
        return m.b(x.gather(1, kept.expand(-1, -1, 8)))

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    check(case(net, noise(2, 6, 5), noise(3, 4, 5)), "h 8", HIDDEN)


def test_random_numbers_for_units_fix_them() -> None:
    given = mlp(lambda m, x: x + torch.rand_like(x))
    found = nothing_moves(given)
    assert harm(given, found, "h 8", HIDDEN) >= WRONG


def test_dropout_is_off() -> None:
    check(mlp(lambda m, x: m.drop(x), drop=nn.Dropout(0.5)), "h 8", HIDDEN)


def test_parameters_in_lists_and_of_no_dimension() -> None:
    def change(m, x):
        return (x * m.gains[0] + m.gains[1]) * m.scale

    gains = nn.ParameterList([weight(8), weight(8)])
    given = mlp(change, gains=gains, scale=nn.Parameter(torch.tensor(0.7)))
    check(given, "h 8", HIDDEN + "  gains.{i}: [h]")


def test_embeddings_of_types_and_places_share_the_stream() -> None:
    net = Net(
        lambda m, x: m.b(m.norm(m.words(x) + m.kinds(x % 2))),
        words=nn.Embedding(11, 8, padding_idx=0),
        kinds=nn.Embedding(2, 8),
        norm=nn.LayerNorm(8),
        b=nn.Linear(8, 3),
    )
    text = "  {words,kinds}.weight: [~, s]\n  norm.{weight,bias}: [s]\n  b.weight: [~, s]"
    check(case(net, ids(2, 6, below=11), ids(3, 4, below=11)), "s 8", text)


@pytest.mark.parametrize(
    "turn",
    [lambda x: x.unsqueeze_(0).squeeze_(0), lambda x: x.t_().tanh().t_(), lambda x: x.t_().t()],
    ids=["squeeze", "twice", "back"],
)
def test_trap_26_a_tensor_that_is_reshaped_in_place_has_other_axes_from_then_on(turn) -> None:
    given = mlp(lambda m, x: turn(x.relu()))
    found = given.traced()
    assert found.proof is not None and found.proof.difference <= EXACT
    assert [group.size for group in found.bound.groups.values()] == [8]


def picture_in_text(m, x, y):
    """As multimodal models do: count the places, then fill them with rows of another stream."""
    hidden = m.a(x)
    places = (x[..., :1] > 0).expand_as(hidden)
    rows_ = m.c(y)
    if hidden[places].numel() > 8 * len(y):
        raise ValueError
    return m.b(hidden.masked_scatter(places, rows_.to(hidden.dtype)))


def test_counting_what_a_mask_chooses_fixes_no_units() -> None:
    net = Net(picture_in_text, **dict(mlp(None).net.named_children()), c=nn.Linear(6, 8))
    one, two = noise(2, 4, 5), noise(3, 5, 5)
    counts = [int((x[..., 0] > 0).sum()) for x in (one, two)]
    given = case(net, (one, noise(counts[0], 6)), (two, noise(counts[1], 6)))
    check(given, "h 8", HIDDEN + "  c.{weight,bias}: [h]")


def test_a_count_that_only_some_units_decide_fixes_them() -> None:
    def change(m, x):
        return x.relu() if x[:, :4][x[:, :4] > 0].numel() % 2 else x.tanh()

    given = mlp(change)
    check(given, "h 4; g 4", '  a.{weight,bias}: ["h + g"]\n  b.weight: [~, "h + g"]')
    assert harm(given, given.traced(), "h 8", HIDDEN) >= WRONG
