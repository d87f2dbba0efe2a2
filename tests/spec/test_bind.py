"""Examples of the language, bound to made-up shapes: sizes of groups, and dimensions of blocks."""

import pytest
import torch

from rebasin_cli.spec.binding.bind import bind, uncovered_tensors
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import blocks_of, bound, dims, group_shapes, infos

TRANSFORMER = """\
rebasin: 1                         # version of the language
name: tiny-transformer
buffers: ["*.running_mean", "*.running_var"]     # permuted with their group, but they do not vote
sizes: {dim: 64}                   # named sizes
groups:
  head.{i}: {size: 4}              # only what cannot be inferred is declared
  qk.{i}:   {per: head.{i}}        # its own permutation for every index of head.{i}
  vo.{i}:   {per: head.{i}}
tensors:
  embed.weight: [~, stream]
  blocks.{i}.attn.qkv.weight: ["head.{i} * qk.{i} + head.{i} * qk.{i} + head.{i} * vo.{i}", stream]
  blocks.{i}.attn.out.weight: [stream, "head.{i} * vo.{i}"]
  blocks.{i}.{norm1,norm2}.{weight,bias}: [stream]
  blocks.{i}.mlp.up.weight: [ffn.{i}]          # axes not listed are fixed
  blocks.{i}.mlp.down.weight: [stream, ffn.{i}]
  head.weight: [~, "stream"]
  conv.weight: [conv3, stream]
  conv.{running_mean,running_var}: [conv3]
  flat.weight: [fc, "conv3 * 49"]              # channel-major flatten of (conv3, 7, 7)
  last.weight: [dim, fc]
"""


def transformer_shapes():
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (10, 16)}
    for i in (0, 1):
        shapes |= {
            f"blocks.{i}.attn.qkv.weight": (4 * (8 + 8 + 3), 16),
            f"blocks.{i}.attn.out.weight": (16, 12),
            f"blocks.{i}.norm1.weight": (16,),
            f"blocks.{i}.mlp.up.weight": (32, 16),
            f"blocks.{i}.mlp.down.weight": (16, 32),
        }
    return shapes | {
        "head.weight": (10, 16),
        "conv.weight": (6, 16, 3, 3),
        "conv.running_mean": (6,),
        "conv.running_var": (6,),
        "conv.num_batches_tracked": (),
        "flat.weight": (20, 294),
        "last.weight": (64, 20),
        "mask": (5, 5),
    }


@pytest.fixture(scope="module")
def transformer():
    dtypes = {"conv.num_batches_tracked": torch.int64}
    # qk and vo differ in size, so one of them has to be given
    text = TRANSFORMER.replace("{per: head.{i}}  ", "{per: head.{i}, size: 8}  ")
    return bind(parse(text), infos(transformer_shapes(), dtypes))


def test_a_transformer_has_its_groups_with_parents_first(transformer):
    assert list(transformer.groups.values()) == [
        BoundGroup("stream", (16,)),
        BoundGroup("head.0", (4,)),
        BoundGroup("qk.0", (4, 8), ("head.0",)),
        BoundGroup("vo.0", (4, 3), ("head.0",)),
        BoundGroup("ffn.0", (32,)),
        BoundGroup("head.1", (4,)),
        BoundGroup("qk.1", (4, 8), ("head.1",)),
        BoundGroup("vo.1", (4, 3), ("head.1",)),
        BoundGroup("ffn.1", (32,)),
        BoundGroup("conv3", (6,)),
        BoundGroup("fc", (20,)),
    ]


def test_a_fused_projection_has_a_block_for_each_segment(transformer):
    blocks = blocks_of(transformer, "blocks.1.attn.qkv.weight")
    assert [dims(b) for b in blocks] == [
        "head.1:4 qk.1:8 stream:16",
        "head.1:4 qk.1:8 stream:16",
        "head.1:4 vo.1:3 stream:16",
    ]
    assert [b.offset for b in blocks] == [0, 32 * 16, 64 * 16]
    assert [d.stride for d in blocks[2].dims] == [3 * 16, 16, 1]


def test_a_flattened_axis_keeps_its_positions_together(transformer):
    assert [dims(b) for b in blocks_of(transformer, "flat.weight")] == ["fc:20 conv3:6 49"]
    assert [dims(b) for b in blocks_of(transformer, "conv.weight")] == ["conv3:6 stream:16 9"]


def test_axes_that_are_not_listed_are_fixed(transformer):
    assert [dims(b) for b in blocks_of(transformer, "blocks.0.mlp.up.weight")] == ["ffn.0:32 16"]


def test_buffers_move_and_do_not_vote(transformer):
    votes = {t.members[0]: t.votes for t in transformer.tensors}
    assert transformer.buffers == {"conv.running_mean", "conv.running_var"}
    assert [votes["conv.weight"], votes["conv.running_mean"]] == [True, False]


def test_what_the_spec_does_not_mention_is_untouched(transformer):
    assert transformer.untouched == ("conv.num_batches_tracked", "mask")
    shapes = infos(transformer_shapes(), {"conv.num_batches_tracked": torch.int64})
    assert uncovered_tensors(transformer, shapes) == ("mask",)


def test_tensors_stand_in_checkpoint_order(transformer):
    named = [t.members[0] for t in transformer.tensors]
    assert named == [n for n in transformer_shapes() if n not in transformer.untouched]


def test_integer_tensors_do_not_vote():
    shapes = {"a": (4, 3), "b": (2, 4), "order": (4,)}
    lines = ["a: [x, ~]", "b: [~, x]", "order: [x]"]
    spec = bound(lines, shapes, dtypes={"order": torch.int64})
    assert [t.votes for t in spec.tensors] == [True, True, False]


def test_matrices_among_buffers_vote_for_units_that_nothing_else_tells():
    shapes = {"a": (4, 3), "codes": (6, 4), "sizes": (6,), "mask": (4, 3), "order": (6, 2)}
    lines = ["a: [x, ~]", "codes: [code, x]", "sizes: [code]", "mask: [x, ~]", "order: [code, ~]"]
    head = "buffers: [codes, sizes, mask, order]\ngroups: {code: {one-sided: true}}\n"
    spec = bound(lines, shapes, head=head, dtypes={"order": torch.int64})
    assert [t.votes for t in spec.tensors] == [True, True, False, False, False]


def test_a_split_reads_two_streams():
    lines = [
        'mha.in.weight: {split: 0, parts: [["head * qk", dec], ["head * qk + head * vo", enc]]}',
        'mha.out.weight: [dec, "head * vo"]',
        "from.{dec,enc}.weight: [~]",
        "dec.weight: [dec, ~]",
        "enc.weight: [enc, ~]",
    ]
    shapes = {
        "mha.in.weight": (24, 7),
        "mha.out.weight": (7, 8),
        "from.dec.weight": (1,),
        "dec.weight": (7, 5),
        "enc.weight": (7, 5),
    }
    head = "groups: {head: {size: 2}, qk: {per: head}, vo: {per: head}}\n"
    spec = bound(lines, shapes, head=head)
    assert group_shapes(spec)["qk"] == (2, 4)
    blocks = blocks_of(spec, "mha.in.weight")
    assert [dims(b) for b in blocks] == [
        "head:2 qk:4 dec:7",
        "head:2 qk:4 enc:7",
        "head:2 vo:4 enc:7",
    ]
    assert [b.offset for b in blocks] == [0, 56, 112]


def test_a_split_of_columns_has_the_tensor_s_strides():
    lines = ["a: {split: 1, parts: [[x, y], [x, z]]}", "b: [y, x]", "c: [z, x]", "d: [y, z]"]
    spec = bound(lines, {"a": (3, 7), "b": (2, 3), "c": (5, 3), "d": (2, 5)})
    first, second = blocks_of(spec, "a")
    assert [(d.group, d.stride) for d in second.dims] == [("x", 7), ("z", 1)]
    assert (first.offset, second.offset) == (0, 2)


def test_an_axis_of_names_is_a_stack():
    lines = [
        "router: [expert, stream]",
        "experts.[e].{w1,w3}.weight: [expert, ffn, stream]",
        "experts.[e].w2.weight: [expert, stream, ffn]",
        "stream: [stream, ~]",
    ]
    shapes = {"stream": (4, 3), "router": (3, 4)}
    for e in (2, 0, 1):
        shapes |= {f"experts.{e}.w2.weight": (4, 5)}
        shapes |= {f"experts.{e}.{w}.weight": (5, 4) for w in ("w1", "w3")}
    spec = bound(lines, shapes, head="groups: {ffn: {per: expert}}\n")
    assert group_shapes(spec) == {"stream": (4,), "expert": (3,), "ffn": (3, 5)}
    stacks = [t for t in spec.tensors if t.stacked]
    assert [t.members[0] for t in stacks] == [f"experts.0.{w}.weight" for w in ("w2", "w1", "w3")]
    assert stacks[0].members == tuple(f"experts.{e}.w2.weight" for e in range(3))
    assert stacks[0].shape == (3, 4, 5)
    assert [dims(b) for b in stacks[0].blocks] == ["expert:3 stream:4 ffn:5"]
    assert [d.stride for d in stacks[0].blocks[0].dims] == [20, 5, 1]


def test_an_interleaved_projection_has_strides_over_the_outer_group():
    lines = [
        'qkv: ["kv * (q * qk + qk + vo)", stream]',
        'out: [stream, "kv * q * vo"]',
        "in: [stream, ~]",
    ]
    head = "groups: {kv: {size: 2}, q: {per: kv, size: 3}, qk: {per: kv}, vo: {per: kv}}\n"
    shapes = {"qkv": (2 * (3 * 4 + 4 + 5), 6), "out": (6, 2 * 3 * 5), "in": (6, 1)}
    spec = bound(lines, shapes, head=head)
    assert group_shapes(spec) == {
        "kv": (2,),
        "q": (2, 3),
        "qk": (2, 4),
        "stream": (6,),
        "vo": (2, 5),
    }
    queries, keys, values = blocks_of(spec, "qkv")
    assert dims(queries) == "kv:2 q:3 qk:4 stream:6"
    assert (dims(keys), keys.offset) == ("kv:2 qk:4 stream:6", 12 * 6)
    assert (dims(values), values.offset) == ("kv:2 vo:5 stream:6", 16 * 6)
    assert {block.dims[0].stride for block in (queries, keys, values)} == {21 * 6}


def test_sums_on_two_axes_give_a_block_for_each_combination():
    lines = ['a: ["x + y", "y + x"]', "b: [x, y]"]
    spec = bound(lines, {"a": (5, 5), "b": (2, 3)})
    assert [dims(b) for b in blocks_of(spec, "a")] == ["x:2 y:3", "x:2 x:2", "y:3 y:3", "y:3 x:2"]


def test_fixed_dimensions_are_merged_only_where_they_are_contiguous():
    lines = ['a: ["~ * x", ~, ~]', "b: [x, 5]", "c: [~, x]"]
    spec = bound(lines, {"a": (6, 1, 4), "b": (3, 5), "c": (1, 3)})
    assert [dims(b) for b in blocks_of(spec, "a")] == ["2 x:3 4"]
    assert [dims(b) for b in blocks_of(spec, "c")] == ["x:3"]
    two = bound(['a: ["2 + 3", ~]'], {"a": (5, 4)})
    assert [(dims(b), b.offset) for b in blocks_of(two, "a")] == [("8", 0), ("12", 8)]
    inner = bound(['a: ["~ * (2 + x)", 4]', "b: [x, x]"], {"a": (15, 4), "b": (3, 3)})
    assert [dims(b) for b in blocks_of(inner, "a")] == ["3 8", "3 x:3 4"]


def test_a_group_of_one_unit_keeps_its_dimension():
    spec = bound(["a: [x, ~]", "b: [~, x]"], {"a": (1, 1), "b": (1, 1)})
    assert [dims(t.blocks[0]) for t in spec.tensors] == ["x:1", "x:1"]


def test_scalars_and_empty_tensors_can_be_named():
    spec = bound(["a: []", "b: [~, 3]"], {"a": (), "b": (0, 3)})
    assert [dims(t.blocks[0]) for t in spec.tensors] == ["", "0"]


# sizes


def test_sizes_come_from_set_then_sizes_then_config():
    lines = ['a: ["head * dim", ~]', 'b: [~, "head * dim"]']
    shapes = {"a": (24, 5), "b": (5, 24)}
    head = "sizes: {dim: config.text.dim}\n"
    config = {"text": {"dim": 4}}
    assert group_shapes(bound(lines, shapes, head=head, config=config)) == {"head": (6,)}
    assert group_shapes(bound(lines, shapes, head=head, config=config, sizes={"dim": 8})) == {
        "head": (3,)
    }
    assert group_shapes(bound(lines, shapes, head="sizes: {dim: 12}\n")) == {"head": (2,)}


def test_a_config_path_is_a_size_where_it_stands():
    lines = ['a: ["head * config.dim", ~]', 'b: [~, "head * config.dim"]']
    spec = bound(lines, {"a": (24, 5), "b": (5, 24)}, config={"dim": 4})
    assert [dims(t.blocks[0]) for t in spec.tensors] == ["head:6 20", "5 head:6 4"]


def test_a_size_that_nothing_needs_may_be_missing():
    shapes = {"a": (3, 5), "b": (5, 3)}
    spec = bound(["a: [x, ~]", "b: [~, x]"], shapes, head="sizes: {heads: config.heads}\n")
    assert group_shapes(spec) == {"x": (3,)}


def test_sizes_are_solved_through_chains_and_several_occurrences():
    lines = [
        'qkv: ["head * qk + head * qk + head * vo", x]',
        'out: [x, "head * vo"]',
        'one: ["head * 5", ~]',
        "x: [x, ~]",
    ]
    shapes = {"qkv": (3 * (7 + 7 + 2), 4), "out": (4, 6), "one": (15, 1), "x": (4, 1)}
    head = "groups: {qk: {per: head}, vo: {per: head}}\n"
    assert group_shapes(bound(lines, shapes, head=head)) == {
        "head": (3,),
        "qk": (3, 7),
        "vo": (3, 2),
        "x": (4,),
    }


def test_parents_nest():
    lines = ['a: ["l * h * d", x]', 'b: [x, "l * h * d"]']
    head = "groups: {l: {size: 2}, h: {size: 3, per: l}, d: {per: h}}\n"
    spec = bound(lines, {"a": (24, 5), "b": (5, 24)}, head=head)
    assert spec.groups["d"] == BoundGroup("d", (2, 3, 4), ("l", "h"))


def test_the_declaration_with_the_fewest_indices_wins():
    lines = ['a.{i}: ["h.{i} * d", ~]', 'b.{i}: [~, "h.{i} * d"]']
    shapes = {f"a.{i}": (12, 2) for i in (0, 1)} | {f"b.{i}": (2, 12) for i in (0, 1)}
    head = "groups: {h.{i}: {size: 5}, h.1: {size: 4}, h.0: {size: 4}}\n"
    assert group_shapes(bound(lines, shapes, head=head)) == {"h.0": (4,), "d": (3,), "h.1": (4,)}
    swapped = "groups: {h.1: {size: 4}, h.0: {size: 4}, h.{i}: {size: 5}}\n"
    assert group_shapes(bound(lines, shapes, head=swapped))["d"] == (3,)
