"""A traced spec that is wrong in one place is caught: it is refused, or the proof sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import pytest
import torch

from rebasin_cli.errors import SpecError
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.transformers.transformers_models import transformers_subject
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec.binding.bind import bind, one_sided_groups
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.language.model import (
    AxisExpr,
    Declaration,
    Entry,
    Fixed,
    Named,
    Product,
    Spec,
    Split,
    Sum,
    axes_of,
    concatenation,
    leaves,
    product,
)
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.tensors.compare import ACCEPTED
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.classes.proved_classes import TracedTensors, class_drift
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.culprits import declared_one_sided
from rebasin_cli.tracer.proof.proof import Trial, random_permutations
from rebasin_cli.tracer.recording.capture import Arguments
from rebasin_cli.tracer.trace import trace
from tests.models import EXAMPLES

WRONG = 1e-3  # relative; what a spec that is wrong in one place does at least
QUICK = 10  # corruptions that the quick tests try for each architecture, spread over its tensors
SEED = 11

PLAIN = ("mlp_residual", "vgg11", "resnet20_stages", "vit_timm", "char_gpt", "llama", "moe",
         "interleaved_groups", "lstm", "cross_attention")  # fmt: skip
CONFIGS: Mapping[str, Mapping[str, object]] = {
    "bert": {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 50}
    | {"intermediate_size": 40, "architectures": ["BertForMaskedLM"]},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 1, "vocab_size": 50, "n_positions": 16}
    | {"architectures": ["GPT2LMHeadModel"]},
    "mixtral": {"num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 6}
    | {"num_key_value_heads": 2, "intermediate_size": 40, "num_local_experts": 4}
    | {"vocab_size": 50, "initializer_range": 0.1, "architectures": ["MixtralForCausalLM"]},
}
LIBRARIES = {
    "torchvision:squeezenet1_1": "torchvision",
    "timm:test_convnext": "timm",
    "timm:test_vit": "timm",
    **{f"transformers:{kind}": "transformers" for kind in CONFIGS},
}
# Adding to all keys of a head what is the same for all places changes no softmax.
INERT = {"transformers:bert": ("key.bias",)}

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, at import


@dataclass(frozen=True)
class Bed:
    """A traced architecture, and the model on which specs of it are tried."""

    found: Trace
    trial: Trial

    def caught(self, wrong: Spec) -> bool:
        """Return whether a spec is refused, or changes what the model computes."""
        return self.harm(wrong) >= WRONG

    def harm(self, spec: Spec) -> float:
        """Return by how much a spec moves the outputs; infinite if it cannot be bound.

        Permutations first, and then the classes that are more than permutations.
        """
        try:
            bound = self.bound(spec)
            moved = self.trial.difference(bound, _stirred(bound))
            tensors = TracedTensors(self.found.infos, self.found.ties)
            plan = FoldPlan(bound, self.found.ties)
            return moved if moved >= WRONG else class_drift(plan, tensors, self.trial)
        except SpecError:
            return float("inf")

    def bound(self, spec: Spec) -> BoundSpec:
        """Return a bound spec; as in the tracer, what has become one-sided is declared so."""
        infos, ties = self.found.infos, self.found.ties
        lone = one_sided_groups(spec, infos, ties=ties)
        return bind(declared_one_sided(spec, lone), infos, ties=ties)


@cache
def bed(name: str) -> Bed:
    """Return an architecture, traced and proved."""
    given = _given(name)
    with torch.no_grad():
        found = trace(given)
        model = given.build()
        calls = [_double(example) for example in given.examples(model)]
        trial = Trial(model.double(), calls[:1], found.outputs, found.returned)
        assert trial.doubt() is None
        return Bed(found, trial)


def _given(name: str) -> Subject:
    if name not in LIBRARIES:
        example = EXAMPLES[name]
        batches = tuple(Example(_enough(name, seed)) for seed in (0, 1))
        return subject_of(example.model(), examples=lambda _: batches)
    pytest.importorskip(LIBRARIES[name])
    kind = name.partition(":")[2]
    return (
        transformers_subject(name, {"model_type": kind, **CONFIGS[kind]})
        if kind in CONFIGS
        else subject_of_target(name)
    )


def _enough(name: str, seed: int) -> tuple[torch.Tensor, ...]:
    """Return a batch; of `moe` so large that no expert is left without rows."""
    seeds = range(10 * seed, 10 * seed + (10 if name == "moe" else 1))
    return tuple(map(torch.cat, zip(*(EXAMPLES[name].batch(s) for s in seeds), strict=True)))


def _stirred(bound: BoundSpec) -> dict[str, Permutation]:
    """Return random permutations of which none is the identity, which is likely for two units."""
    found: dict[str, Permutation] = {}
    for seed in range(SEED, SEED + 50):
        drawn = random_permutations(bound, seed=seed)
        found = {name: one for name, one in drawn.items() if one.moved} | found
    return found


def _double(example: Example) -> Arguments:
    calls: Arguments = map_leaves(
        (example.args, example.kwargs),
        torch.Tensor,
        lambda t: t.double() if t.is_floating_point() else t,
    )
    return calls


def removed(found: Trace) -> Iterator[tuple[str, Spec]]:
    """Yield specs in which one tensor has lost one group: a label, and the spec."""
    for name, entry in found.explicit.tensors.items():
        for group in _named(entry):
            gone = Fixed(found.bound.groups[group].size)
            yield f"{name} without {group}", _with(found, name, _renamed(entry, {group: gone}))


def swapped(found: Trace) -> Iterator[tuple[str, Spec]]:
    """Yield specs in which two groups of one size have changed places in one tensor."""
    groups = found.bound.groups
    for name, entry in found.explicit.tensors.items():
        for one, other in combinations(_named(entry), 2):
            if groups[one].size == groups[other].size:
                leaf = {one: Named(other), other: Named(one)}
                yield f"{name}: {one} for {other}", _with(found, name, _renamed(entry, leaf))


def mistaken(found: Trace) -> Iterator[tuple[str, Spec]]:
    """Yield specs in which one tensor names another group of the same size."""
    groups = found.bound.groups
    for name, entry in found.explicit.tensors.items():
        for one in _named(entry):
            others = [g for g in groups if g != one and groups[g].shape == groups[one].shape]
            for other in others[:1]:
                new = _renamed(entry, {one: Named(other)})
                yield f"{name}: {other} instead of {one}", _with(found, name, new)


def parented(found: Trace) -> Iterator[tuple[str, Spec]]:
    """Yield specs in which a group is said to have one permutation for each index of another."""
    for child, parent in ((a, b) for a in found.bound.groups for b in found.bound.groups):
        if child != parent and not found.bound.groups[child].parents:
            yield f"{child} per {parent}", _declared(found, child, parent)


def _with(found: Trace, tensor: str, entry: Entry) -> Spec:
    return replace(found.explicit, tensors={**found.explicit.tensors, tensor: entry})


def _declared(found: Trace, child: str, parent: str | None) -> Spec:
    groups = dict(found.explicit.groups)
    groups[child] = replace(groups.get(child, Declaration()), per=parent)
    return replace(found.explicit, groups=groups)


def _named(entry: Entry) -> list[str]:
    """Return the groups of an entry, each once."""
    expressions = [axis for axes in axes_of(entry) for axis in axes]
    found = [leaf.name for tree in expressions for leaf in leaves(tree) if isinstance(leaf, Named)]
    return list(dict.fromkeys(found))


def _renamed(entry: Entry, leaf: Mapping[str, AxisExpr]) -> Entry:
    if isinstance(entry, Split):
        parts = tuple(tuple(_tree(axis, leaf) for axis in part) for part in entry.parts)
        return replace(entry, parts=parts)
    return tuple(_tree(axis, leaf) for axis in entry)


def _tree(tree: AxisExpr, leaf: Mapping[str, AxisExpr]) -> AxisExpr:
    if isinstance(tree, Product):
        return product([_tree(factor, leaf) for factor in tree.factors])
    if isinstance(tree, Sum):
        return concatenation([_tree(segment, leaf) for segment in tree.segments])
    return leaf.get(tree.name, tree) if isinstance(tree, Named) else tree


CORRUPTIONS = {made.__name__: made for made in (removed, swapped, mistaken, parented)}
ARCHITECTURES = (*PLAIN, *LIBRARIES)
HEAVY = ("torchvision:", "timm:", "resnet20", "vgg11")
TRIED = [
    pytest.param(name, marks=[pytest.mark.slow] if name.startswith(HEAVY) else [])
    for name in ARCHITECTURES
]


def unnoticed(name: str, kind: str, limit: int) -> list[str]:
    """Return which of about `limit` corruptions of an architecture nothing catches."""
    tried = list(CORRUPTIONS[kind](bed(name).found))
    inert = INERT.get(name, ())
    with torch.no_grad():
        return [
            label
            for label, wrong in tried[:: max(1, len(tried) // limit)]
            if not any(part in label for part in inert) and not bed(name).caught(wrong)
        ]


@pytest.mark.parametrize("name", TRIED)
def test_the_spec_itself_is_right(name: str) -> None:
    given = bed(name)
    assert given.found.proof is not None
    assert given.found.proof.refuted == {}
    with torch.no_grad():
        assert given.harm(given.found.explicit) <= ACCEPTED


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("name", TRIED)
def test_a_spec_with_one_mistake_is_caught(name: str, kind: str) -> None:
    assert unnoticed(name, kind, QUICK) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_single_mistake_is_caught(name: str, kind: str) -> None:
    assert unnoticed(name, kind, limit=10**9) == []


@pytest.mark.parametrize("name", ["vit_timm", "interleaved_groups", "cross_attention"])
def test_a_parent_that_is_left_out_is_no_mistake_but_another_symmetry(name: str) -> None:
    """One permutation for all heads instead of one for each: right, but not all there is."""
    found = bed(name).found
    children = [group for group, one in found.bound.groups.items() if one.parents]
    assert children
    for child in children:
        less = _declared(found, child, None)
        assert not same_symmetry(bed(name).bound(less), found.bound)
        with torch.no_grad():
            assert bed(name).harm(less) <= ACCEPTED
