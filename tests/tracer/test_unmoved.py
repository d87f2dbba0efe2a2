"""What outputs do not depend on is not proved by their staying: it is fixed, and said."""

import pytest
import torch
from torch import nn

from rebasin_cli.tracer.derivation.unused import UNUSED
from rebasin_cli.tracer.proof.proof import Trial
from tests.tracer.traps import Net, case, check, noise, rows

HIDDEN = "  a.{weight,bias}: [h]\n  b.weight: [~, h]\n"


def two(**more: nn.Module) -> dict[str, nn.Module]:
    return {"a": nn.Linear(5, 8), "b": nn.Linear(8, 3), **more}


def branch() -> dict[str, nn.Module]:
    return two(c=nn.Linear(5, 6), d=nn.Linear(6, 3))


def test_a_branch_that_is_multiplied_by_zero_is_fixed_and_listed() -> None:
    net = Net(lambda m, x: m.b(m.a(x).relu()) + 0 * m.d(m.c(x).relu()), **branch())
    found = check(rows(net, 2, 5), "h 8", HIDDEN)
    assert found.unused == ("c.weight", "c.bias", "d.weight")
    fixed = {(axis.tensor, axis.axis, axis.size) for axis in found.fixed if axis.reason == UNUSED}
    assert fixed == {("c.weight", 0, 6), ("c.bias", 0, 6), ("d.weight", 1, 6)}


def test_a_branch_that_a_mask_leaves_out_is_fixed() -> None:
    # As a vision tower of which no token of a text makes use.
    def run(m, x):
        return torch.where(x[:, :1] > 100, m.d(m.c(x).relu()), m.b(m.a(x).relu()))

    assert check(rows(Net(run, **branch()), 2, 5), "h 8", HIDDEN).unused[0] == "c.weight"


def test_attention_to_a_single_key_says_nothing_of_queries() -> None:
    def run(m, x):
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in m.qkv(x).split(8, -1))
        scores = (q @ k.transpose(-1, -2)).softmax(-1)
        return m.o((scores @ v).transpose(1, 2).flatten(2))

    net = Net(run, qkv=nn.Linear(5, 24), o=nn.Linear(8, 3))
    text = '  qkv.{weight,bias}: ["h * 4 + h * 4 + h * e"]\n  o.weight: [~, "h * e"]'
    found = check(rows(net, 2, 1, 5), "h 2; e 4 per h", text)
    assert found.unused == ()  # of the fused projection the values are used
    whole = text.replace("h * 4", "h * d")
    check(rows(net, 2, 3, 5), "h 2; d 4 per h; e 4 per h", whole)


def test_what_only_a_ranking_looks_at_has_no_gradient_and_is_used() -> None:
    def run(m, x):
        best = m.d(m.c(x).relu()).argmax(-1, keepdim=True)
        return m.b(m.a(x).relu()) * (best == 0)

    text = HIDDEN + "  c.{weight,bias}: [r]\n  d.weight: [~, r]"
    check(rows(Net(run, **branch()), 9, 5), "h 8; r 6", text)


@pytest.mark.parametrize("how", ["rounded", "detached", "overwritten", "whole numbers"])
def test_outputs_without_gradients_still_depend_on_what_they_depend_on(how: str) -> None:
    def run(m, x):
        hidden = m.a(x).sigmoid()
        y = m.b(hidden)
        if how == "overwritten":
            hidden.data = hidden.data * 1
            hidden.zero_()
        if how == "whole numbers":
            return (9 * y).long()
        return (9 * y).round() if how == "rounded" else y.detach() if how == "detached" else y

    check(rows(Net(run, **two()), 9, 5), "h 8", HIDDEN)


def test_looking_for_gradients_leaves_the_model_as_it_was() -> None:
    net = Net(lambda m, x: m.b(m.a(x).relu()), **two()).double()
    net.a.weight.requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in net.parameters()]
    with torch.no_grad():
        trial = Trial(net, [((noise(2, 5).double(),), {})], ["output"])
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        (slopes,) = trial.slopes(before)
    assert all(bool((slope != 0).any()) for slope in slopes.values())
    assert [parameter.requires_grad for parameter in net.parameters()] == wanted
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_gradient_that_is_not_a_number_is_no_reason_to_fix_anything() -> None:
    # The square root of 0 has an infinite slope, and 0 times that is none.
    def run(m, x):
        y = m.b(m.a(x).relu())
        return y + (y.abs() * 0).sqrt()

    check(rows(Net(run, **two()), 2, 5), "h 8", HIDDEN)


def test_a_parent_that_is_not_used_goes_with_its_children() -> None:
    def run(m, x):
        def heads(t):
            return t.unflatten(-1, (2, 4)).transpose(1, 2)

        scores = (heads(m.q(x)) @ heads(m.k(x)).transpose(-1, -2)).softmax(-1)
        mixed = (scores @ heads(m.v(x))).transpose(1, 2).flatten(2)
        return m.b(m.a(x).relu()) + 0 * m.o(mixed)

    parts = {name: nn.Linear(5, 8) for name in "qkv"}
    net = Net(run, **two(**parts, o=nn.Linear(8, 3)))
    found = check(case(net, noise(2, 3, 5), noise(2, 4, 5)), "h 8", HIDDEN)
    assert set(found.unused) == {"q.weight", "q.bias", "k.weight", "k.bias", "v.weight",
                                 "v.bias", "o.weight"}  # fmt: skip


def ranked_and_masked(m, x):
    """Return two layers scaled by a ranking, and a branch that is multiplied by zero."""
    best = m.d(m.c(x).relu()).argmax(-1, keepdim=True)
    return m.b(m.a(x).relu()) * (best == 0) + 0 * m.f(m.e(x).relu())


def test_of_several_without_gradients_only_the_unused_are_fixed() -> None:
    net = Net(ranked_and_masked, **branch(), e=nn.Linear(5, 7), f=nn.Linear(7, 3))
    text = HIDDEN + "  c.{weight,bias}: [r]\n  d.weight: [~, r]"
    assert check(rows(net, 9, 5), "h 8; r 6", text).unused == ("e.weight", "e.bias", "f.weight")


def test_nothing_is_fixed_without_having_been_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebasin_cli.tracer.proof.ineffective.RUNS", 0)
    net = Net(ranked_and_masked, **branch(), e=nn.Linear(5, 7), f=nn.Linear(7, 3))
    found = rows(net, 9, 5).traced()
    assert sorted(group.size for group in found.bound.groups.values()) == [6, 7, 8]
    assert found.unused == ()


def test_slopes_of_matrices_are_not_asked_where_biases_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, slopes = [], Trial.slopes

    def seen(self, names):
        asked.append(set(names))
        return slopes(self, names)

    monkeypatch.setattr(Trial, "slopes", seen)
    check(rows(Net(lambda m, x: m.b(m.a(x).relu()), **two()), 9, 5), "h 8", HIDDEN)
    assert asked == [{"a.bias"}]
