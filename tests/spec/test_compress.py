"""What the short form of an explicit spec looks like."""

from dataclasses import replace
from unittest.mock import patch

import pytest

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.compression.choices import Line
from rebasin_cli.spec.compression.compress import compress
from rebasin_cli.spec.compression.template_families import tensor_families
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Fixed, Named
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import infos, spec_text

N = 4


def compressed(entries, *, head="", extra=(), ties=None):
    """Return the lines of the short form of `name -> axes`, every axis 4 or as it says.

    extra: names of tensors without an entry.
    """
    spec, headers = written(entries, head, extra)
    return dump(compress(spec, headers, ties=ties)).splitlines()


def written(entries, head="", extra=()):
    spec = parse(spec_text([f"{name}: [{axes}]" for name, axes in entries.items()], head))
    shapes = {
        name: tuple(map(width, filter(None, axes.split(", ")))) for name, axes in entries.items()
    }
    return spec, infos(shapes | dict.fromkeys(extra, (N,)))


def width(axis):
    """Return the size of `~`, a group, or products and sums of groups and numbers."""
    terms = axis.replace(" ", "").split("+")
    total = 0
    for term in terms:
        size = 1
        for factor in term.split("*"):
            size *= int(factor) if factor.isdigit() else N
        total += size
    return total


def tensors_of(lines):
    return [line.strip() for line in lines[lines.index("tensors:") + 1 :]]


def gpt(depth):
    entries = {"wte.weight": "~, stream"}
    for k in range(depth):
        heads, qk = f"h.{k}.attn.heads", f"h.{k}.attn.qk"
        entries |= {
            f"h.{k}.ln_1.weight": "stream",
            f"h.{k}.ln_1.bias": "stream",
            f"h.{k}.attn.c_attn.weight": f"stream, {heads} * {qk} + {heads} * {qk}",
            f"h.{k}.attn.c_proj.weight": f"{heads} * {qk}, stream",
            f"h.{k}.ln_2.weight": "stream",
            f"h.{k}.ln_2.bias": "stream",
        }
    return entries | {"ln_f.weight": "stream", "head.weight": "~, stream", "head.bias": "~"}


def gpt_head(depth):
    groups = [f"  h.{k}.attn.heads: {{size: {N}}}\n" for k in range(depth)]
    groups += [f"  h.{k}.attn.qk: {{per: h.{k}.attn.heads}}\n" for k in range(depth)]
    listed = [f"h.{k}.attn.{c}.weight" for k in range(depth) for c in ("c_attn", "c_proj")]
    return f"transposed: [{', '.join(['wte.weight', *listed])}]\ngroups:\n{''.join(groups)}"


def test_a_transformer_of_any_depth_is_a_few_lines():
    short = compressed(gpt(3), head=gpt_head(3))
    assert short == [
        "rebasin: 1",
        'transposed: [wte.weight, "h.{i}.attn.{c_attn,c_proj}.weight"]',
        "groups:",
        "  h.{i}.attn.heads: {size: 4}",
        '  h.{i}.attn.qk: {per: "h.{i}.attn.heads"}',
        "tensors:",
        '  "{wte,head}.weight": [~, stream]',
        "  h.{i}.{ln_1,ln_2}.{weight,bias}: [stream]",
        "  h.{i}.attn.c_attn.weight: [stream, "
        '"h.{i}.attn.heads * h.{i}.attn.qk + h.{i}.attn.heads * h.{i}.attn.qk"]',
        '  h.{i}.attn.c_proj.weight: ["h.{i}.attn.heads * h.{i}.attn.qk", stream]',
        "  ln_f.weight: [stream]",
        "  head.bias: [~]",
    ]
    assert compressed(gpt(12), head=gpt_head(12)) == short


def test_a_chain_has_its_ends_and_its_head_reads_the_last_layer():
    chain = {"features.0.weight": "features.0, ~", "features.0.bias": "features.0"}
    for before, k in ((0, 3), (3, 6), (6, 10), (10, 13)):
        chain |= {
            f"features.{k}.weight": f"features.{k}, features.{before}",
            f"features.{k}.bias": f"features.{k}",
        }
    chain |= {"fc.weight": "~, features.13 * 49", "fc.bias": "~"}
    assert tensors_of(compressed(chain)) == [
        'features.{i}.weight: ["features.{i}", "features.{i.prev}"]',
        "features.0.weight: [features.0]",
        'features.{i}.bias: ["features.{i}"]',
        'fc.weight: [~, "features.{last} * 49"]',
        "fc.bias: [~]",
    ]


def test_the_last_layer_is_called_last_when_it_differs():
    chain = {"0.weight": "u.0, ~"} | {f"{k}.weight": f"u.{k}, u.{k - 1}" for k in (1, 2, 3)}
    assert tensors_of(compressed(chain | {"4.weight": "~, u.3"})) == [
        '"{i}.weight": ["u.{i}", "u.{i.prev}"]',
        "0.weight: [u.0]",
        '"{last}.weight": [~, "u.{last.prev}"]',
    ]


def test_in_a_template_a_number_of_another_place_stays():
    layers = {f"enc.{k}.w": f"e.{k}, e.{k}" for k in range(3)}
    layers |= {f"dec.{k}.w": f"d.{k}, e.2" for k in range(4)} | {
        f"t.{k}": f"d.{k}, d.{k}" for k in range(4)
    }
    lines = tensors_of(compressed(layers | {"head.w": "~, e.2"}))
    assert 'dec.{i}.w: ["d.{i}", e.2]' in lines
    assert 'head.w: [~, "e.{last}"]' in lines


def test_the_last_of_the_layers_is_meant_and_not_of_what_is_in_them():
    layers = {f"h.{k}.mlp.{n}.w": f"h.{k}.mlp.{n}, s" for k in range(4) for n in (0, 2)}
    layers |= {f"t.{k}.{n}": f"s, h.{k}.mlp.{n}" for k in range(4) for n in (0, 2)}
    assert 'head.w: [~, "h.{last}.mlp.2"]' in tensors_of(
        compressed(layers | {"head.w": "~, h.3.mlp.2"})
    )
    assert "aux.w: [~, h.1.mlp.2]" in tensors_of(compressed(layers | {"aux.w": "~, h.1.mlp.2"}))


def test_a_layer_beside_templates_keeps_its_number():
    layers = {f"f.{k}.w": f"f.{k}, f.{k}" for k in range(4)}
    lines = tensors_of(compressed(layers | {"g.3.x": "~, f.3", "g.x": "~, f.3"}))
    assert "g.3.x: [~, f.3]" in lines
    assert 'g.x: [~, "f.{last}"]' in lines


def resnet():
    entries = {"conv1.weight": "layer1.stream, ~"}
    for s in (1, 2, 3):
        for b in (0, 1):
            inner, stream = f"layer{s}.{b}.conv1", f"layer{s}.stream"
            read = f"layer{max(1, s - 1)}.stream" if b == 0 else stream
            entries |= {
                f"layer{s}.{b}.conv1.weight": f"{inner}, {read}",
                f"layer{s}.{b}.bn1.running_mean": inner,
                f"layer{s}.{b}.conv2.weight": f"{stream}, {inner}",
            }
            if s > 1 and b == 0:
                entries[f"layer{s}.0.downsample.0.weight"] = f"{stream}, {read}"
    return entries | {"fc.weight": "~, layer3.stream"}


def test_first_blocks_are_exceptions_to_the_template_of_their_stage():
    assert tensors_of(compressed(resnet())) == [
        "conv1.weight: [layer1.stream]",
        'layer{i}.{j}.conv1.weight: ["layer{i}.{j}.conv1", "layer{i}.stream"]',
        'layer{i}.0.conv1.weight: ["layer{i}.0.conv1", "layer{i.prev}.stream"]',
        "layer1.0.conv1.weight: [layer1.0.conv1, layer1.stream]",
        'layer{i}.{j}.bn1.running_mean: ["layer{i}.{j}.conv1"]',
        'layer{i}.{j}.conv2.weight: ["layer{i}.stream", "layer{i}.{j}.conv1"]',
        'layer{i}.0.downsample.0.weight: ["layer{i}.stream", "layer{i.prev}.stream"]',
        'fc.weight: [~, "layer{last}.stream"]',
    ]


def test_buffers_become_globs_where_all_names_with_that_ending_are_listed():
    listed = [name for name in resnet() if name.endswith("mean")]
    head = f"buffers: [{', '.join(listed)}]\n"
    assert 'buffers: ["*.running_mean"]' in compressed(resnet(), head=head)
    other = {"x.running_mean": "~"}
    lines = compressed(resnet() | other, head=head)
    assert 'buffers: ["layer{i}.{j}.bn1.running_mean"]' in lines


def test_transposed_names_are_no_globs():
    square = {f"{k}.w": f"u.{k}, u.{k}" for k in "ab"}
    assert 'transposed: ["{a,b}.w"]' in compressed(square, head="transposed: [a.w, b.w]\n")


def test_a_stack_of_tensors_repeats_like_one_tensor():
    lines = [f"l.{k}.experts.[e].{w}.weight: [l.{k}.e, s, s]" for k in (0, 1) for w in ("w1", "w2")]
    lines += [f"l.{k}.router.weight: [l.{k}.e, s]" for k in (0, 1)]
    shapes = {f"l.{k}.router.weight": (3, N) for k in (0, 1)}
    for k, e, w in ((k, e, w) for k in (0, 1) for e in range(3) for w in ("w1", "w2")):
        shapes[f"l.{k}.experts.{e}.{w}.weight"] = (N, N)
    short = compress(parse(spec_text(lines)), infos(shapes))
    assert set(short.tensors) == {
        "l.{i}.experts.[e].{w1,w2}.weight",
        "l.{i}.router.weight",
    }


def test_an_index_of_one_tensor_stays_a_number():
    assert tensors_of(compressed({"net.0.weight": "net.0, ~", "net.2.weight": "~, net.0"})) == [
        "net.0.weight: [net.0]",
        "net.2.weight: [~, net.0]",
    ]


def test_numbers_that_tell_different_things_apart_become_a_choice():
    norms = {f"h.{k}.norm{n}.weight": "s" for k in (0, 1) for n in (1, 2)}
    assert tensors_of(compressed(norms | {"tie": "s, s"})) == [
        "h.{i}.{norm1,norm2}.weight: [s]",
        "tie: [s, s]",
    ]


def test_a_template_does_not_name_a_tensor_that_had_no_entry():
    layers = {f"h.{k}.weight": "s" for k in (0, 1, 3)} | {"tie": "s, s"}
    assert tensors_of(compressed(layers))[0] == "h.{i}.weight: [s]"
    assert tensors_of(compressed(layers, extra=["h.2.weight"]))[0] == "h.{0,1,3}.weight: [s]"


def test_a_choice_has_every_combination_of_its_alternatives():
    some = {"a.w": "s", "a.b": "s", "c.w": "s", "tie": "s, s"}
    assert tensors_of(compressed(some | {"c.b": "~"})) == [
        "a.{w,b}: [s]",
        "c.w: [s]",
        "tie: [s, s]",
        "c.b: [~]",
    ]
    assert tensors_of(compressed(some | {"c.b": "s"}))[0] == '"{a,c}.{w,b}": [s]'


def test_long_choices_are_cut():
    many = {f"m{chr(97 + k)}": "~" for k in range(20)} | {"tie": "s, s"}
    counts = [line.count(",") + 1 for line in tensors_of(compressed(many)) if "[~]" in line]
    assert counts == [8, 8, 4]


def test_fixed_axes_lose_their_sizes_where_nothing_needs_them():
    entries = {"a.w": "s, 3, 3", "b.w": "s, 3, s", "c.w": "3, 3", "d.w": "9, s * 9, 9"}
    lines = tensors_of(compressed(entries))
    assert lines == ["a.w: [s]", "b.w: [s, ~, s]", "c.w: [~]", 'd.w: [~, "s * 9"]']


def test_a_scalar_has_an_entry_without_axes():
    spec, headers = written({"a.count": "", "b.count": "", "tie": "s, s"})
    assert compress(spec, headers).tensors["{a,b}.count"] == ()


def test_the_axis_of_a_split_keeps_its_sizes():
    line = "a: {split: 0, parts: [[3, s, 1], [s, ~]]}"
    headers = infos({"a": (3 + N, N, 1), "tie": (N, N)})
    short = compress(parse(spec_text([line, "tie: [s, s]"])), headers)
    assert "  a: {split: 0, parts: [[3, s], [s]]}" in dump(short).splitlines()


def test_what_else_a_declaration_says_is_kept_and_tells_groups_apart():
    head = "groups:\n" + "".join(
        f"  g.{k}: {{size: 4{', fixed: true' * (k == 2)}}}\n" for k in range(4)
    )
    entries = {f"h.{k}.w": f"g.{k}, g.{k}" for k in range(4)}
    lines = compressed(entries, head=head)
    assert lines[1:4] == ["groups:", "  g.{i}: {size: 4}", "  g.2: {size: 4, fixed: true}"]


def test_a_group_that_is_not_declared_keeps_templates_from_declaring_it():
    head = "groups:\n  g.0: {size: 4}\n  g.1: {size: 4}\n"
    entries = {f"h.{k}.w": f"g.{k}, g.{k}" for k in range(3)}
    assert compressed(entries, head=head)[2:4] == ["  g.0: {size: 4}", "  g.1: {size: 4}"]


def test_patterns_that_are_there_already_are_left_alone():
    lines = ["h.{i}.a: [s, s]", "opt.9?: [s]", "x.0.w: [s]", "x.1.w: [s]"]
    headers = infos({"h.0.a": (N, N), "h.1.a": (N, N), "x.0.w": (N,), "x.1.w": (N,)})
    short = compress(parse(spec_text(lines)), headers)
    assert set(short.tensors) == {"h.{i}.a", "opt.9?", "x.{i}.w"}


def test_the_name_the_description_and_the_sizes_are_kept():
    head = "name: n\ndescription: about n\nsizes: {d.1: 4}\n"
    spec, headers = written({"a.1.w": "s, d.1", "a.2.w": "s, s"}, head)
    short = compress(spec, headers)
    assert (short.name, short.description, short.sizes) == ("n", "about n", {"d.1": 4})
    assert short.tensors["a.1.w"] == (Named("s"), Named("d.1"))
    assert spec.tensors["a.1.w"] == (Named("s"), Named("d.1"))


def test_ties_of_names_that_no_file_stores_are_followed():
    spec, headers = written({"a.0.w": "s, s", "a.1.w": "s, s", "a.2.w": "s, s"})
    headers.pop("a.2.w")
    ties = {"a.2.w": "a.0.w"}
    short = compress(spec, headers, ties=ties)
    assert list(short.tensors) == ["a.{i}.w"]
    assert bind(short, headers, ties=ties).tensors == bind(spec, headers, ties=ties).tensors


def test_a_spec_that_does_not_fit_is_refused():
    spec, headers = written({"a.w": "s, s"})
    with pytest.raises(SpecError, match="matches no tensor"):
        compress(replace(spec, tensors=spec.tensors | {"b.w": (Fixed(),)}), headers)


def wrong_for(*endings):
    """Return `tensor_families` with nonsense for the families whose names end so."""

    def families(spec, names):
        for family in tensor_families(spec, names):
            name = family.long[0].pattern
            nonsense = (Line(f"*{name}", (Fixed(),), (0,)),)
            yield replace(family, short=nonsense) if name.endswith(endings) else family

    return families


def test_what_would_be_wrong_stays_explicit_and_the_rest_is_short():
    spec, headers = written(gpt(3), gpt_head(3))
    wrong = wrong_for("c_attn.weight", "ln_1.bias", "ln_f.weight")
    with patch("rebasin_cli.spec.compression.compress.tensor_families", wrong):
        short = compress(spec, headers)
    wanted, found = bind(spec, headers), bind(short, headers)
    assert (found.tensors, found.groups) == (wanted.tensors, wanted.groups)
    assert set(short.tensors) == {
        *(f"h.{k}.attn.c_attn.weight" for k in range(3)),
        *(f"h.{k}.{{ln_1,ln_2}}.bias" for k in range(3)),
        "h.{i}.{ln_1,ln_2}.weight",
        "{wte,head}.weight",
        "h.{i}.attn.c_proj.weight",
        "ln_f.weight",
        "head.bias",
    }
    assert set(short.groups) == {"h.{i}.attn.heads", "h.{i}.attn.qk"}


def test_a_spec_that_is_right_at_once_is_bound_twice():
    spec, headers = written(gpt(12), gpt_head(12))
    with patch("rebasin_cli.spec.compression.compress.bind", side_effect=bind) as counted:
        compress(spec, headers)
    assert counted.call_count == 2
