"""Traps 5, 6, 19 and 25: recurrent layers, transformers of torch.nn, and what ties their layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.derivation.unused import UNUSED
from rebasin_cli.tracer.recording.recorder import primitive_kernels
from tests.tracer.traps import WRONG, Net, case, check, harm, noise, rows

# Three heads are an odd number, about which torch.nn warns.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

GATES = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}


def sequences(net: nn.Module, width: int = 5):
    """Return a network with two inputs of different numbers of places."""
    return case(net, noise(2, 6, width), noise(3, 4, width))


@pytest.mark.parametrize("kind", GATES)
def test_trap_5_equal_zeros_do_not_tie_layers_and_directions(kind) -> None:
    rnn = kind(5, 8, num_layers=2, bidirectional=True, batch_first=True)
    net = Net(lambda m, x: m.out(m.rnn(x)[0]), rnn=rnn, out=nn.Linear(16, 3))
    gates = {layer: " + ".join([layer] * GATES[kind]) for layer in ("a", "b", "c", "d")}
    text = "".join(
        f"""
  rnn.weight_ih_{where}: ["{gates[name]}", {into}]
  rnn.weight_hh_{where}: ["{gates[name]}", {name}]
  rnn.bias_ih_{where}: ["{gates[name]}"]
  rnn.bias_hh_{where}: ["{gates[name]}"]"""
        for name, where, into in (
            ("a", "l0", "~"),
            ("b", "l0_reverse", "~"),
            ("c", "l1", '"a + b"'),
            ("d", "l1_reverse", '"a + b"'),
        )
    )
    text += '\n  out.weight: [~, "c + d"]'
    groups = "a 8; b 8; c 8; d 8"  # one for each layer and direction
    found = check(sequences(net), groups, text)
    assert harm(sequences(net), found, groups, text.replace("a + b", "b + a")) >= WRONG


def test_trap_25_a_fused_cell_is_taken_apart() -> None:
    net = Net(lambda m, x: m.out(m.rnn(x)[0]), rnn=nn.LSTM(5, 8), out=nn.Linear(8, 3))
    found = sequences(net).traced()
    assert found.unknown == ()
    assert [group.size for group in found.bound.groups.values()] == [8]


def test_trap_25_kernels_are_as_they_were_after_a_trace() -> None:
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    with primitive_kernels():
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.mkldnn.enabled
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == before


CELL = """
  cell.weight_ih: ["h + h + h + h"]
  cell.bias_ih: ["h + h + h + h"]
  cell.bias_hh: ["h + h + h + h"]
  out.weight: [~, h]
"""


def cells(steps: int):
    """Return an LSTM cell whose states come from layers, unrolled over some steps."""

    def run(m, x):
        h, c = m.a(x).tanh(), m.b(x)
        for _ in range(steps):
            h, c = m.cell(x, (h, c))
        return m.out(h)

    net = Net(
        run, a=nn.Linear(5, 8), b=nn.Linear(5, 8), cell=nn.LSTMCell(5, 8), out=nn.Linear(8, 3)
    )
    return rows(net, 2, 5)


def test_trap_19_one_step_leaves_the_first_state_to_itself() -> None:
    # With one step nothing says that the state which goes in is the one which comes out.
    text = (
        CELL
        + """
  cell.weight_hh: ["h + h + h + h", a]
  a.{weight,bias}: [a]
  b.{weight,bias}: [h]
"""
    )
    check(cells(1), "h 8; a 8", text)


def test_trap_19_two_steps_tie_the_state_to_itself() -> None:
    text = (
        CELL
        + """
  cell.weight_hh: ["h + h + h + h", h]
  a.{weight,bias}: [h]
  b.{weight,bias}: [h]
"""
    )
    given = cells(2)
    found = check(given, "h 8", text)
    loose = text.replace('h + h", h]', 'h + h", a]').replace("  a.{weight,bias}: [h]", "")
    assert harm(given, found, "h 8; a 8", loose) >= WRONG


def test_trap_19_a_cell_without_a_state_has_a_recurrence_that_nothing_exercises() -> None:
    net = Net(lambda m, x: m.out(m.cell(x)[0]), cell=nn.LSTMCell(5, 8), out=nn.Linear(8, 3))
    # Multiplied by zeros: of the columns this net says nothing, and their units stay.
    text = CELL + '  cell.weight_hh: ["h + h + h + h", ~]'
    found = check(rows(net, 3, 5), "h 8", text)
    assert [axis.reason for axis in found.fixed if axis.tensor == "cell.weight_hh"] == [UNUSED]


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_in_a_loop_from_nothing(kind) -> None:
    def run(m, x):
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.out(state[0] if isinstance(state, tuple) else state)

    count = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}[kind]
    gates = " + ".join(["h"] * count)
    text = f"""
  cell.weight_ih: ["{gates}"]
  cell.weight_hh: ["{gates}", h]
  cell.bias_ih: ["{gates}"]
  cell.bias_hh: ["{gates}"]
  out.weight: [~, h]
"""
    check(sequences(Net(run, cell=kind(5, 8), out=nn.Linear(8, 3))), "h 8", text)


def test_trap_6_a_stack_that_nobody_reads_ties_nothing() -> None:
    def run(m, x):
        one = m.a(x).relu()
        two = m.b(one).relu()
        return m.c(two), torch.stack([one, two])

    net = Net(run, a=nn.Linear(5, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3))
    text = """
  a.{weight,bias}: [a]
  b.weight: [b, a]
  b.bias: [b]
  c.weight: [~, b]
"""
    given = rows(net, 2, 5)
    check(given, "a 8; b 8", text, choices=Choices(outputs=("0",)))
    assert given.traced().bound.groups == {}  # both outputs are looked at


def test_trap_6_a_stack_that_is_read_again_ties_nothing() -> None:
    def run(m, x):
        one, two = torch.stack([m.a(x), m.b(x)])
        return m.c(one.relu()) + m.d(two.relu())

    layers = {name: nn.Linear(5, 8) for name in "ab"} | {name: nn.Linear(8, 3) for name in "cd"}
    text = "  a.{weight,bias}: [a]\n  b.{weight,bias}: [b]\n  c.weight: [~, a]\n  d.weight: [~, b]"
    check(rows(Net(run, **layers), 2, 5), "a 8; b 8", text)


def layer(number: int, stream: str = "s") -> str:
    """Return the claim for an encoder layer of torch.nn."""
    i, at = number, f"t.layers.{number}"
    return f"""
  {at}.self_attn.in_proj_weight: ["h{i} * d{i} + h{i} * d{i} + h{i} * e{i}", {stream}]
  {at}.self_attn.in_proj_bias: ["h{i} * d{i} + h{i} * d{i} + h{i} * e{i}"]
  {at}.self_attn.out_proj.weight: [{stream}, "h{i} * e{i}"]
  {at}.self_attn.out_proj.bias: [{stream}]
  {at}.linear1.weight: [f{i}, {stream}]
  {at}.linear1.bias: [f{i}]
  {at}.linear2.weight: [{stream}, f{i}]
  {at}.linear2.bias: [{stream}]
  {at}.{{norm1,norm2}}.{{weight,bias}}: [{stream}]
"""


LAYER = "h{i} 3; d{i} 4 per h{i}; e{i} 4 per h{i}; f{i} 10"
LAYERS = "; ".join(LAYER.replace("{i}", str(i)) for i in range(2))


@pytest.mark.parametrize("first", [False, True])
def test_trap_25_a_transformer_encoder_has_nine_groups(first) -> None:
    one = nn.TransformerEncoderLayer(12, 3, 10, batch_first=True, norm_first=first)
    encoder = nn.TransformerEncoder(one, 2)
    net = Net(lambda m, x: m.out(m.t(m.inp(x))), inp=nn.Linear(5, 12), t=encoder)
    net.out = nn.Linear(12, 3)
    # The stream, and in both layers heads, query and key dims, value dims, feed-forward.
    around = "  inp.{weight,bias}: [s]\n  out.weight: [~, s]"
    check(sequences(net), f"s 12; {LAYERS}", around + layer(0) + layer(1))


def masked(m: Net, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
    return m.out(m.t(m.inp(x), mask=mask))


def test_a_causal_mask_fixes_places_only() -> None:
    one = nn.TransformerEncoderLayer(12, 3, 10, batch_first=True)
    net = Net(masked, inp=nn.Linear(5, 12), t=nn.TransformerEncoder(one, 2), out=nn.Linear(12, 3))
    around = "  inp.{weight,bias}: [s]\n  out.weight: [~, s]"
    check(sequences(net), f"s 12; {LAYERS}", around + layer(0) + layer(1))


def test_a_transformer_whose_streams_are_its_inputs_has_22_groups() -> None:
    net = nn.Transformer(12, 3, 2, 2, 10, batch_first=True)
    given = case(net, (noise(2, 6, 12), noise(2, 5, 12)), (noise(3, 4, 12), noise(3, 7, 12)))
    found = given.traced()
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.difference <= 1e-9) == ({}, True)
    # An encoder layer has heads, two kinds of dims and a feed-forward; a decoder layer has the
    # first three twice: 2 * 4 + 2 * 7.
    parents = [group.parents for group in found.bound.groups.values()]
    assert (len(parents), sum(map(bool, parents))) == (22, 12)


def test_trap_2_a_transformer_with_embeddings_has_two_streams_more() -> None:
    net = Net(
        lambda m, x, y: m.out(m.t(m.a(x), m.b(y))),
        a=nn.Linear(5, 12),
        b=nn.Linear(6, 12),
        t=nn.Transformer(12, 3, 2, 2, 10, batch_first=True),
        out=nn.Linear(12, 4),
    )
    given = case(net, (noise(2, 6, 5), noise(2, 5, 6)), (noise(3, 4, 5), noise(3, 7, 6)))
    found = given.traced()
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.difference <= 1e-9) == ({}, True)
    assert len(found.bound.groups) == 24
    streams = [g for g in found.bound.groups.values() if g.shape == (12,)]
    assert len(streams) == 2


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 6, 5), (3, 1, 5)])
def test_trap_19_one_token_or_one_row_says_as_much_as_many(shape) -> None:
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    net = Net(lambda m, x: _attended(m, m.inp(x)), inp=nn.Linear(5, 12), att=attention)
    net.out = nn.Linear(12, 4)
    text = """
  inp.{weight,bias}: [s]
  att.in_proj_weight: ["h * d + h * d + h * e", s]
  att.in_proj_bias: ["h * d + h * d + h * e"]
  att.out_proj.weight: [s, "h * e"]
  att.out_proj.bias: [s]
  out.weight: [~, s]
"""
    given = case(net, noise(*shape), noise(2, 5, 5))
    check(given, "s 12; h 3; d 4 per h; e 4 per h", text)


def _attended(m: Net, x: Tensor) -> Tensor:
    return m.out(x + m.att(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_what_packed_sequences_have_at_each_step_moves(batch_first: bool) -> None:
    def run(m, x, lengths):
        steps = pack_padded_sequence(
            m.a(x).relu(), lengths, batch_first=batch_first, enforce_sorted=False
        )
        return m.b(pad_packed_sequence(m.rnn(steps)[0], batch_first=batch_first)[0])

    net = Net(
        run,
        a=nn.Linear(4, 6),
        rnn=nn.RNN(6, 7, batch_first=batch_first),
        b=nn.Linear(7, 3),
    )
    lengths = torch.tensor([4, 2] if batch_first else [3, 1, 2, 3])
    given = case(net, (noise(2, 4, 4) if batch_first else noise(3, 4, 4), lengths))
    text = """
  a.{weight,bias}: [d]
  rnn.weight_ih_l0: [h, d]
  rnn.weight_hh_l0: [h, h]
  rnn.{bias_ih_l0,bias_hh_l0}: [h]
  b.weight: [~, h]
"""
    check(
        given, "d 6; h 7", text.replace("a.{weight,bias}: [d]", "a.weight: [d, ~]\n  a.bias: [d]")
    )
