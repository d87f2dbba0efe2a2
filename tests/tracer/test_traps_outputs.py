"""Traps 7, 22 and 28: what counts as an output, what nothing reads, and why things stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.errors import UsageError
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.proof.unproved import NOT_NUMBERS, ONE_NUMBER, UNMOVED
from rebasin_cli.tracer.recording.training_calls import TrainingCall, calling
from tests.tracer.traps import EXACT, WRONG, Net, case, check, harm, ids, noise, rows, weight

HIDDEN = "  a.{weight,bias}: [h]\n  b.weight: [~, h]\n"


def two_outputs(named: bool):
    def run(m, x):
        hidden = m.a(x).relu()
        logits = m.b(hidden)
        return {"logits": logits, "hidden": hidden} if named else (logits, hidden)

    return rows(Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3)), 2, 5)


def test_trap_7_every_output_of_a_tuple_fixes_its_units() -> None:
    found = two_outputs(named=False).traced()
    assert (found.bound.groups, found.outputs) == ({}, ("0", "1"))


def test_trap_7_one_output_is_chosen() -> None:
    found = check(two_outputs(named=False), "h 8", HIDDEN, choices=Choices(outputs=("0",)))
    assert found.outputs == ("0",)


def test_trap_7_logits_are_what_a_user_looks_at() -> None:
    found = check(two_outputs(named=True), "h 8", HIDDEN)
    assert found.outputs == ("logits",)


@pytest.mark.parametrize("layers", [True, False])
def test_trap_7_boxes_beside_logits_count_if_they_have_layers_of_their_own(layers: bool) -> None:
    # Otherwise the layer of the boxes would stay where the stream that it reads has moved.
    def run(m, x):
        hidden = m.a(x).relu()
        boxes = m.c(hidden) if layers else hidden
        return {"logits": m.b(hidden), "boxes": boxes, "again": boxes}

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3), c=nn.Linear(8, 4))
    text = HIDDEN + "  c.weight: [~, h]" * layers
    found = check(rows(net, 2, 5), "h 8", text)
    assert found.outputs == ("logits", "boxes")[: 1 + layers]


def test_trap_7_an_output_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="the model returns no output 'logit'") as caught:
        two_outputs(named=True).traced(Choices(outputs=("logit",)))
    assert caught.value.problems[0].hint == "did you mean 'logits'?"


def test_trap_7_free_outputs_may_change_places() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
    given = rows(net, 2, 5)
    text = "  0.{weight,bias}: [h]\n  2.weight: [%s, h]"
    check(given, "h 8", text % "~")
    found = given.traced(Choices(free_outputs=True))
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.difference <= EXACT) == ({}, True)
    assert sorted(group.size for group in found.bound.groups.values()) == [6, 8]


@pytest.mark.parametrize("named", [True, False])
def test_trap_7_whole_numbers_beside_others_keep_the_units_that_they_count(named: bool) -> None:
    # Otherwise classes change places, of which a user sees the number and the largest score.
    def run(m, x):
        scores = m.b(m.a(x).relu()).softmax(-1)
        best, label = scores.max(-1)
        return {"score": best, "label": label} if named else Returned(best, (label,))

    check(rows(Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3)), 2, 5), "h 8", HIDDEN)


def test_trap_7_the_experts_that_a_router_chose_are_no_output() -> None:
    def run(m, x):
        scores, chosen = m.router(x).topk(1)
        mixed = (m.experts[chosen.squeeze(-1)] * x[:, None]).sum(-1) * scores
        return {"out": m.out(mixed), "router_choice": chosen}

    net = Net(run, router=nn.Linear(5, 4), experts=weight(4, 8, 5), out=nn.Linear(8, 3))
    text = "  router.{weight,bias}: [e]\n  experts: [e, h]\n  out.weight: [~, h]\n"
    check(rows(net, 2, 5), "e 4; h 8", text)


@dataclass
class Returned:
    """As transformers return their outputs."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]

    def to_tuple(self) -> tuple[object, ...]:
        return (self.last_hidden_state, self.hidden_states)


def test_trap_7_of_an_object_only_the_first_output_counts() -> None:
    def run(m, x):
        hidden = m.a(x).relu()
        return Returned(m.b(hidden), (hidden,))

    given = rows(Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3)), 2, 5)
    found = check(given, "h 8", HIDDEN)
    assert found.outputs == ("last_hidden_state",)
    assert given.traced(Choices(outputs=("hidden_states.0",))).bound.groups == {}


def test_trap_22_what_nothing_reads_is_fixed_and_listed() -> None:
    net = Net(
        lambda m, x: m.b(m.a(x).relu()),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 3),
        aux=nn.Linear(8, 4),
        token=weight(8),
    )
    found = check(rows(net, 2, 5), "h 8", HIDDEN)
    assert set(found.unused) == {"aux.weight", "aux.bias", "token"}
    # 8 * 5 + 8 of the first layer, 3 * 8 of the second, of 72 + 3 + 4 * 8 + 4 + 8 elements.
    assert found.share == pytest.approx(72 / 119)


def test_trap_22_what_only_another_output_reads_is_not_exercised() -> None:
    net = Net(
        lambda m, x: (m.b(m.a(x).relu()), m.aux(m.a(x))),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 3),
        aux=nn.Linear(8, 4),
    )
    given = rows(net, 2, 5)
    assert given.traced(Choices(outputs=("0",))).unused == ("aux.weight", "aux.bias")
    check(given, "h 8", HIDDEN + "  aux.weight: [~, h]")


def test_trap_22_rows_of_a_table_that_were_not_read_move_with_the_others() -> None:
    net = Net(
        lambda m, x: m.b(m.norm(m.a(x) + m.table[: x.shape[1]])),
        a=nn.Linear(5, 8),
        norm=nn.LayerNorm(8),
        b=nn.Linear(8, 3),
        table=weight(10, 8),
    )
    # The second input is longer: it reads rows that the record has not seen.
    given = case(net, noise(2, 4, 5), noise(2, 9, 5))
    text = HIDDEN + "  norm.{weight,bias}: [h]\n"
    found = check(given, "h 8", text + "  table: [~, h]")
    rest = "  table: {split: 0, parts: [[4, h], [6, 8]]}"
    assert harm(given, found, "h 8", text + rest) >= WRONG


def test_trap_22_rows_of_a_positional_embedding_move_together() -> None:
    def run(m, x):
        places = torch.arange(x.shape[1])
        return m.b(m.norm(m.words(x) + m.places(places)))

    net = Net(
        run,
        words=nn.Embedding(11, 8),
        places=nn.Embedding(10, 8),
        norm=nn.LayerNorm(8),
        b=nn.Linear(8, 3),
    )
    given = case(net, ids(2, 4, below=11), ids(2, 9, below=11))
    text = "  {words,places}.weight: [~, h]\n  norm.{weight,bias}: [h]\n  b.weight: [~, h]"
    check(given, "h 8", text)


def test_trap_22_units_that_no_slice_takes_stay() -> None:
    net = Net(lambda m, x: m.b(m.a(x)[:, :8].relu()), a=nn.Linear(5, 12), b=nn.Linear(8, 3))
    found = check(rows(net, 2, 5), "h 8", '  a.{weight,bias}: ["h + 4"]\n  b.weight: [~, h]')
    assert {axis.reason.partition(":")[0] for axis in found.fixed if axis.size == 4} == {
        "not exercised"
    }


def test_trap_22_the_half_of_a_pair_that_is_dropped_stays() -> None:
    # As a variational encoder in eval mode: the deviations belong to the means, unit by unit.
    def run(m, x):
        mean, _ = m.a(x).chunk(2, -1)
        return m.b(mean)

    given = rows(Net(run, a=nn.Linear(5, 16), b=nn.Linear(8, 3)), 2, 5)
    check(given, "h 8", '  a.{weight,bias}: ["h + 8"]\n  b.weight: [~, h]')


def test_trap_28_every_fixed_axis_has_its_reason() -> None:
    def run(m, x):
        x = m.conv(m.emb(x).transpose(1, 2)).transpose(1, 2) * m.table
        return m.out(m.mid(x).cumsum(-1))

    net = Net(
        run,
        emb=nn.Embedding(11, 8),
        conv=nn.Conv1d(8, 6, 3, padding=1),
        table=torch.arange(6.0),
        mid=nn.Linear(6, 7),
        out=nn.Linear(7, 4),
        spare=nn.Linear(2, 2),
    )
    found = case(net, ids(2, 5, below=11), ids(3, 6, below=11)).traced()
    reasons = {(axis.tensor, axis.axis): axis.reason.partition(":")[0] for axis in found.fixed}
    assert reasons == {
        ("emb.weight", 0): "embedding rows",
        ("conv.weight", 0): "buffer table",
        ("conv.weight", 2): "convolution kernel",
        ("conv.bias", 0): "buffer table",
        ("mid.weight", 0): "cumulative along the axis",
        ("mid.weight", 1): "buffer table",
        ("mid.bias", 0): "cumulative along the axis",
        ("out.weight", 0): "output",
        ("out.weight", 1): "cumulative along the axis",
        ("out.bias", 0): "output",
        ("spare.weight", 0): "not exercised",
        ("spare.weight", 1): "not exercised",
        ("spare.bias", 0): "not exercised",
    }
    assert not any(axis.soft for axis in found.fixed)


def test_register_tokens_are_rows_of_the_stream_that_may_change_places() -> None:
    def run(m, x):
        tokens = m.patches(x).flatten(2).transpose(1, 2)
        extra = [m.cls.expand(len(x), -1, -1), m.registers.expand(len(x), -1, -1)]
        x = torch.cat([*extra, tokens + m.places], 1)
        x = x + m.att(x, x, x, need_weights=False)[0]
        return m.head(m.norm(x)[:, 0])

    net = Net(
        run,
        patches=nn.Conv2d(3, 12, 2, stride=2),
        cls=weight(1, 1, 12),
        registers=weight(1, 4, 12),
        places=weight(1, 9, 12),
        att=nn.MultiheadAttention(12, 3, batch_first=True),
        norm=nn.LayerNorm(12),
        head=nn.Linear(12, 5),
    )
    text = """
  patches.{weight,bias}: [s]
  cls: [~, ~, s]
  registers: [~, r, s]
  places: [~, ~, s]
  att.in_proj_weight: ["h * d + h * d + h * e", s]
  att.in_proj_bias: ["h * d + h * d + h * e"]
  att.out_proj.weight: [s, "h * e"]
  att.out_proj.bias: [s]
  norm.{weight,bias}: [s]
  head.weight: [~, s]
"""
    # The registers have no places: attention does not know them apart, and only `cls` is read.
    check(rows(net, 2, 3, 6, 6), "s 12; r 4; h 3; d 4 per h; e 4 per h", text)


def test_two_inputs_of_which_one_skips_ahead() -> None:
    # A model that adds its input to its stream: the input fixes the units.
    net = Net(lambda m, x: m.b(x + m.c(m.a(x).relu())), a=nn.Linear(8, 6), b=nn.Linear(8, 3))
    net.c = nn.Linear(6, 8)
    text = "  a.{weight,bias}: [h]\n  c.weight: [~, h]"
    found = check(rows(net, 2, 8), "h 6", text)
    assert {axis.reason for axis in found.fixed if axis.tensor == "c.bias"} == {"input"}


def test_outputs_that_are_no_numbers_prove_nothing() -> None:
    net = Net(lambda m, x: m.b(m.a(x)) * float("nan"), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    found = rows(net, 3, 5).traced()
    assert (found.proof, found.doubt) == (None, NOT_NUMBERS)
    assert [group.size for group in found.bound.groups.values()] == [8]


def test_outputs_that_are_all_one_number_prove_nothing() -> None:
    net = Net(lambda m, x: m.b(m.a(x)) * 0, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    found = rows(net, 3, 5).traced()
    assert (found.proof, found.doubt) == (None, ONE_NUMBER)


def test_outputs_that_notice_nothing_prove_nothing() -> None:
    net = Net(lambda m, x: m.b(m.a(x)) * 0 + x[:, :3], a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    found = rows(net, 3, 5).traced()
    assert (found.proof, found.doubt) == (None, UNMOVED)


def test_a_proof_leaves_no_doubt() -> None:
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    assert rows(net, 3, 5).traced().doubt is None


class Auxiliary(nn.Module):
    """A head that training alone reads, behind dropout of both kinds and a norm's statistics."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 4)
        self.norm, self.act = nn.BatchNorm1d(8), act

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.norm(self.a(x)).relu()
        out: Tensor = self.b(hidden)
        rest = F.dropout(F.dropout(hidden, 0.5, self.training), 0.3, training=self.training)
        return (out, self.aux(self.act(rest))) if self.training else out


DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "a factor": lambda hidden: hidden * torch.rand(hidden.shape),
    "a slope": lambda hidden: F.rrelu(hidden - 0.5, 0.1, 0.9, training=True),
}
AUXILIARY = HIDDEN + "  norm.{weight,bias,running_mean,running_var}: [h]\n  aux.weight: [~, h]\n"


def test_trap_22_what_training_alone_reads_moves_too() -> None:
    given = rows(Auxiliary(torch.tanh), 4, 5)
    found = check(given, "h 8", AUXILIARY)
    assert (found.unused, found.trained, found.outputs) == ((), True, ("output", "0", "1"))


@pytest.mark.parametrize("kind", DRAWN)
def test_trap_22_what_training_draws_for_each_unit_is_left_to_be_not_exercised(kind: str) -> None:
    given = rows(Auxiliary(DRAWN[kind]), 4, 5)
    found = check(given, "h 8", AUXILIARY.replace("aux.weight: [~, h]", "aux.weight: [4, 8]"))
    assert (set(found.unused), found.trained) == ({"aux.weight", "aux.bias"}, False)


def test_a_call_in_training_mode_leaves_a_model_as_it_was() -> None:
    def run(m, x):
        m.seen.data += m.training  # has no new version
        m.register_buffer("last", x)
        return m.norm(x) + m.seen

    net = Net(run, norm=nn.BatchNorm1d(5), seen=torch.zeros(5)).eval()
    call = TrainingCall((noise(4, 5),), {})
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad(), calling(net, call):
        assert (net.training, net.norm.training) == (True, False)
        assert torch.equal(net(*call.args), net.norm(*call.args) + 1)
    assert not net.training
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
