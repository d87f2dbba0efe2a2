"""Trap 14: buffers, which move with units where that can be seen, or where it is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.tensors import InMemory, infos
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from tests.tracer.traps import (
    EXACT,
    HIDDEN,
    WRONG,
    Net,
    case,
    check,
    harm,
    mlp,
    noise,
    nothing_moves,
    rows,
    weight,
)  # fmt: skip


def test_trap_14_a_table_in_a_buffer_fixes_the_stream_unless_asked() -> None:
    def run(m, x):
        return m.b(m.a(x) + m.table[: x.shape[1]])

    angles = torch.outer(torch.arange(10.0), 10.0 ** -torch.arange(8.0)).sin()
    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3), table=angles)
    given = case(net, noise(2, 6, 5), noise(3, 9, 5))
    found = nothing_moves(given)
    assert harm(given, found, "h 8", HIDDEN) >= WRONG
    assert {axis.reason for axis in found.fixed if axis.tensor == "a.bias"} == {"buffer table"}
    moved = check(given, "h 8", HIDDEN + "  table: [~, h]", choices=Choices(buffers=("tab*",)))
    assert moved.explicit.buffers == ("table",)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("ones", [False, True])
def test_trap_14_a_mask_of_whole_numbers_moves_if_asked(dtype: torch.dtype, ones: bool) -> None:
    mask = torch.ones(8) if ones else torch.arange(8) % 3  # ones tell nothing of their order
    given = mlp(lambda m, x: x.relu() * m.mask, mask=mask.to(dtype))
    nothing_moves(given)
    moved = check(given, "h 8", HIDDEN + "  mask: [h]", choices=Choices(buffers=("mask",)))
    assert moved.explicit.buffers == ("mask",)


def test_trap_14_a_buffer_moves_along_the_axes_where_it_is_uniform() -> None:
    """What was begun with ones or zeros, and knots that are the same for every unit."""

    def change(m, x):
        y = (x - m.mean) / m.var.sqrt()
        return (y[..., None] - m.knots).abs().sum(-1)

    knots = torch.linspace(-1, 1, 4).expand(8, 4).contiguous()
    given = mlp(change, mean=torch.zeros(8), var=torch.ones(8), knots=knots)
    found = check(given, "h 8", HIDDEN + "  '{mean,var}?': [h]\n  knots?: [h, ~]")
    assert set(found.explicit.buffers) == {"mean", "var", "knots"}
    for name in found.explicit.buffers:  # as after training
        given.net.get_buffer(name).mul_(torch.rand(8, *[1] * (name == "knots")) + 1)
        given.net.get_buffer(name).add_(torch.rand(8, *[1] * (name == "knots")))
    assert harm(given, found, "h 8", HIDDEN) >= WRONG
    text = HIDDEN + "  mean: [h]\n  var: [h]\n  knots: [h, ~]"
    assert harm(given, found, "h 8", text) <= EXACT


def test_trap_14_a_table_that_is_not_stored_fixes_the_stream() -> None:
    given = mlp(lambda m, x: x + m.hidden)
    given.net.register_buffer("hidden", torch.arange(8.0), persistent=False)
    nothing_moves(given, "*")


def test_trap_14_a_stored_table_is_named_so_that_files_can_be_matched_by_the_spec_alone() -> None:
    grid = torch.linspace(-1, 1, 4)
    net = Net(
        lambda m, x: m.b((m.a(x)[..., None] - m.grid).exp().sum(-1)),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 3),
        grid=grid,
    )
    found = check(rows(net, 2, 5), "h 8", HIDDEN)
    assert "grid?: [~]" in dump(found.spec)
    assert bind(found.spec, infos(InMemory(net.state_dict()))).untouched == ()


def test_trap_14_what_is_kept_in_eval_mode_follows_what_it_was_made_of() -> None:
    # Attention biases of LeViT, TinyViT, EfficientViT: a constant, once the model has been run.
    net = Keeping().eval()
    net(noise(2, 5))
    check(rows(net, 2, 5), "h 8", "  {a.weight,a.bias,more}: [h]\n  b.weight: [~, h]\n")


class Keeping(nn.Module):
    """Adds to its hidden units what it makes of a parameter, and keeps that in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.more = nn.Linear(5, 8), nn.Linear(8, 3), weight(8)
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Keeping:
        self.kept = {} if mode else self.kept
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "more" not in self.kept:
            self.kept["more"] = self.more.detach() * 1
        return self.b((self.a(x) + self.kept["more"]).relu())
