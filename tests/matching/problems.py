"""Matching problems for tests: random models that fit a spec, and what a search must find."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rebasin_cli.matching.many.match_many import ManyRequest
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permutation import Permutation, inverse
from rebasin_cli.permuted import Permuted, take
from rebasin_cli.progress import silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import InMemory
from tests.models import EXAMPLES
from tests.proof import draw, stored
from tests.spec.shapes import bound
from tests.test_specs import bound_to, case

MLP = ["inp.weight: [h, ~]", "inp.bias: [h]", "out.weight: [~, h]"]
MLP_SHAPES = {"inp.weight": (6, 5), "inp.bias": (6,), "out.weight": (3, 6)}


@dataclass(frozen=True)
class Problem:
    """A model, and the spec that says how it may be permuted."""

    bound: BoundSpec
    state: Mapping[str, torch.Tensor]

    def permuted(self, permutations, state=None):
        """Return the model (or another that fits the spec) with its units reordered."""
        source = Permuted(InMemory(state or self.state), self.bound.tensors, permutations)
        return {name: source.load(name).clone() for name in source.names()}

    def match(self, other, reference=None, *, movable=None, initial=None, **settings):
        return match_weights(
            InMemory(reference or self.state),
            InMemory(other),
            self.bound,
            settings=Settings(**settings),
            movable=movable,
            initial=initial,
        )

    def request(self, states, *, reference=0, movable=None, **settings):
        sources = [InMemory(state) for state in states]
        labels = [f"model {k}" for k in range(len(sources))]
        search = Settings(**settings)
        return ManyRequest(sources, self.bound, search, reference, movable, labels, silent)

    def draw(self, seed):
        """Return a random permutation of every group."""
        return draw(self.bound, seed)

    def planted(self, seed):
        """Return the model in another order, and the permutations that bring it back."""
        permutations = self.draw(seed)
        return self.permuted(permutations), inverse(permutations)

    def noisy(self, seed, amount):
        """Return the model with noise `amount` times as large as each tensor's spread."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: values + amount * spread(values) * randn(values.shape, generator, values.dtype)
            if values.is_floating_point()
            else values
            for name, values in self.state.items()
        }


def spread(values):
    return values.std() if values.numel() > 1 else values.abs().sum()


def randn(shape, generator, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_state(shapes, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: randn(shape, generator, dtype) for name, shape in shapes.items()}


def random_problem(lines, shapes, *, head="", seed=0, dtype=torch.float32):
    """Return a problem of random values; two of different seeds have nothing in common."""
    return Problem(bound(lines, shapes, head=head), random_state(shapes, seed, dtype))


def mlp(seed=0, dtype=torch.float32):
    """Return a network of one hidden layer of six units, `h`."""
    return random_problem(MLP, MLP_SHAPES, seed=seed, dtype=dtype)


def example(name, seed=1, dtype=torch.float32):
    """Return one of the networks of tests/models with the spec that it is proved with."""
    (spec, _), chosen = case(name), EXAMPLES[name]
    state = stored(chosen.model(seed=seed))
    cast = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}
    return Problem(bound_to(spec, state, chosen.sizes), cast)


def objective(problem, reference, other, permutations):
    """Return the sum of inner products over the tensors that vote, from permuted copies."""
    pairs = compared(problem, reference, other, permutations)
    return sum(float((a * b).sum()) for a, b in pairs)


def distance(problem, reference, other, permutations):
    pairs = compared(problem, reference, other, permutations)
    return sum(float(((a - b) ** 2).sum()) for a, b in pairs) ** 0.5


def compared(problem, reference, other, permutations):
    """Return float64 arrays of all that is compared: voting tensors, then what no group moves."""
    a, b, spec = InMemory(reference), InMemory(other), problem.bound
    voting = [t for t in spec.tensors if t.votes]
    pairs = [(t.load(a), take(t.load(b), t, permutations)) for t in voting]
    still = [n for n in spec.untouched if n not in spec.buffers and a.info(n).floating]
    pairs += [(a.load(n), b.load(n)) for n in still]
    return [(x.double().numpy(), y.double().numpy()) for x, y in pairs]


def same(left, right):
    """Return whether two sets of permutations are equal, group by group."""
    return left.keys() == right.keys() and all(left[name] == right[name] for name in left)


def still(problem):
    """Return the identity of every group."""
    return {
        g.name: Permutation(torch.arange(g.size).expand(g.shape).clone(), g.parents)
        for g in problem.bound.groups.values()
    }
