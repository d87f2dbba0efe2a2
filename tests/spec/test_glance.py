"""A glance at a spec's text never rules out what fits, and rules out nearly everything else."""

import pytest
import torch

from rebasin_cli.spec.binding.outline import least_problems, outlines, ruled_out
from rebasin_cli.spec.library import bundled_names, load_spec, spec_text
from rebasin_cli.tensors import InMemory, TensorInfo, infos
from tests.models import EXAMPLES
from tests.proof import stored

NETWORKS = ["mlp_sequential", "vgg11_bn", "resnet18", "resnet20_stages", "char_gpt", "llama", "moe"]
TEXT = """\
rebasin: 1
tensors:
  {}
  other.weight?: [~, a]
groups:
  a.nowhere: {{size: 3}}
"""


def names_of(*names):
    return outlines({name: info(name) for name in names}, {})


def info(name):
    return TensorInfo(name, (3, 4), torch.float32)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_ruled_out_has_problems_and_little_else_is_left(network):
    names = outlines(infos(InMemory(stored(EXAMPLES[network].model()))), {})
    left = [title for title in bundled_names() if not ruled_out(spec_text(title), names)]
    without_problems = {t for t in bundled_names() if not least_problems(load_spec(t), names)}
    assert without_problems <= set(left)
    assert len(left) <= 5 < len(bundled_names())


@pytest.mark.parametrize(
    "entry",
    [
        "h.{i}.attn.weight: [a, ~]",
        '"h.{i}.attn.weight": [a, ~]',
        "'h.{i}.{attn,mlp}.weight': [a, ~]",
        "h.[e].attn.weight: [e, a]  # a comment: here",
        "h.*.weight: [a]",
        "h.{i.prev}.attn.weight: [a]",
    ],
)
def test_a_pattern_is_seen_in_every_form(entry):
    text = TEXT.format(entry)
    assert not ruled_out(text, names_of("h.0.attn.weight", "h.1.attn.weight"))
    assert ruled_out(text, names_of("g.0.attn.weight"))


def test_what_is_optional_or_elsewhere_rules_nothing_out():
    assert not ruled_out(TEXT.format("# h.weight: [a]"), names_of("x"))
    assert not ruled_out(TEXT.format("h.bias?: [a]"), names_of("x"))
    assert not ruled_out("rebasin: 1\n", names_of("x"))
