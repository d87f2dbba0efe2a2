"""Small problems of every structure, and soft permutations of them as explicit matrices."""

from concurrent.futures import Executor, Future
from itertools import combinations

import torch

from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.relaxation.polytope import polytope
from rebasin_cli.matching.relaxation.stacks import stack_fields
from rebasin_cli.tensors import InMemory
from tests.matching.problems import random_problem, random_state, still

CHAIN = (
    ["a.w: [h, ~]", "a.b: [h]", "b.w: [k, h]", "b.b: [k]", "c.w: [~, k]"],
    {"a.w": (6, 4), "a.b": (6,), "b.w": (5, 6), "b.b": (5,), "c.w": (3, 5)},
    "",
)
CONVOLUTIONS = (
    ["a: [h, ~, ~, ~]", "b: [k, h, ~, ~]", "c: [~, 'k * 4']"],
    {"a": (6, 3, 2, 2), "b": (5, 6, 3, 3), "c": (3, 20)},
    "",
)
HEADS = (
    [
        "emb: [~, stream]",
        "qkv: ['head * qk + head * qk + head * vo', stream]",
        "out: [stream, 'head * vo']",
        "slope: [head]",
    ],
    {"emb": (4, 7), "qkv": (21, 7), "out": (7, 9), "slope": (3,)},
    "groups: {head: {size: 3}, qk: {per: head}, vo: {per: head, size: 3}}\n",
)
STILL_HEADS = (HEADS[0], HEADS[1], HEADS[2].replace("size: 3}, qk", "size: 3, fixed: true}, qk"))
NESTED = (
    ["in: ['a * b * c', ~]", "mid: [s, 'a * b']", "out: [s, 'a * b * c']", "emb: [~, s]"],
    {"in": (12, 4), "mid": (5, 6), "out": (5, 12), "emb": (3, 5)},
    "groups: {a: {size: 3}, b: {per: a, size: 2}, c: {per: b}}\n",
)
SQUARE = (
    ["in: [s, ~]", "w: [s, s]", "v: [s, s]", "out: [~, s]"],
    {"in": (7, 3), "w": (7, 7), "v": (7, 7), "out": (2, 7)},
    "",
)
CUBE = (
    ["t: [a, b, c]", "a: [a, ~]", "b: [~, b]", "c: [c, ~]", "ab: [b, a]"],
    {"t": (4, 5, 6), "a": (4, 3), "b": (3, 5), "c": (6, 2), "ab": (5, 4)},
    "",
)
ALIKE = (  # many of one form: each between two chains of its own
    ["first: [h.0, ~]", *(f"w.{k}: [h.{k + 1}, h.{k}]" for k in range(4)), "last: [~, h.4]"],
    {"first": (5, 3), **{f"w.{k}": (5, 5) for k in range(4)}, "last": (2, 5)},
    "",
)
BLOCKS = (  # many of one form that have a chain in common, and blocks of other forms between
    [
        "in: [s, ~]",
        "out: [~, s]",
        "up.{i}: [h.{i}, s]",
        "down.{i}: [s, h.{i}]",
        "turn.{i}: [h.{i}, s]",
    ],
    {
        "in": (6, 3),
        "out": (2, 6),
        **{f"up.{k}": (4, 6) for k in range(5)},
        **{f"down.{k}": (6, 4) for k in range(5)},
        **{f"turn.{k}": (4, 6) for k in range(2)},
    },
    "",
)
STRUCTURES = {
    "chain": CHAIN,
    "convolutions": CONVOLUTIONS,
    "heads": HEADS,
    "heads that stay": STILL_HEADS,
    "nested": NESTED,
    "square": SQUARE,
    "cube": CUBE,
    "alike": ALIKE,
    "blocks": BLOCKS,
}


class InTurn(Executor):
    """Does what is submitted at once."""

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        future.set_result(function(*args, **kwargs))
        return future


def structure(name, seed=0, dtype=torch.float64):
    """Return a random problem of one of the structures."""
    lines, shapes, head = STRUCTURES[name]
    return random_problem(lines, shapes, head=head, seed=seed, dtype=dtype)


def unrelated(name, seed, dtype=torch.float64):
    """Return another model that fits a structure."""
    return random_state(STRUCTURES[name][1], seed, dtype)


def loaded(state):
    dtype = next(iter(state.values())).dtype
    device = torch.device("cpu")
    return DeviceTensors(InMemory(state), label="", device=device, dtype=dtype, limit=1 << 30)


def space(problem, *others):
    """Return the soft permutations of models beside the problem's own."""
    models = [loaded(state) for state in (problem.state, *others)]
    here = [still(problem) for _ in models]
    return polytope(models, families(problem.bound), problem.bound.groups, here, InTurn())


def stacks(polytope):
    """Return the fields of a walk: those of one form in one."""
    return stack_fields(polytope.fields, polytope.fixed)


def one_hot(order):
    """Return the matrix P with P b = b[order]."""
    return torch.eye(len(order), dtype=torch.float64)[order]


def corner(polytope, permutations):
    """Return the matrix of every chain under permutations."""
    return {groups: one_hot(order) for groups, order in polytope.orders(permutations).items()}


def middle(polytope):
    """Return the matrix of every chain in the middle of all orders that it may be in."""
    return {groups: mean_order(polytope, chain) for groups, chain in polytope.chains.items()}


def mean_order(polytope, chain):
    """Return the product of 1/n for every group that moves and of the identity for the others."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for name, size in zip(chain.groups, chain.shape, strict=True):
        stays = polytope.groups[name].fixed
        one = torch.eye(size).double() if stays else torch.ones(size, size).double() / size
        matrix = torch.kron(matrix, one)
    return matrix


def between(start, end, length):
    """Return the matrices on the way from one point to another."""
    return {groups: (1 - length) * start[groups] + length * end[groups] for groups in start}


def multiplied(field, which, matrices, *, without=None):
    """Return an array of a field with a matrix multiplied into each of its chains."""
    values = field.arrays[which]
    for axis, chain in enumerate(field.chains):
        if axis != without:
            moved = values.movedim(axis, 0)
            product = matrices[chain.groups] @ moved.reshape(len(moved), -1)
            values = product.reshape(moved.shape).movedim(0, axis)
    return values


def in_frame(field, points):
    """Return the arrays of all models in the common frame; points: of all but the first."""
    moved = [multiplied(field, k, matrices) for k, matrices in enumerate(points, 1)]
    return [field.arrays[0], *moved]


def pairs(polytope, points):
    """Return the sum of the inner products of all pairs of models, by matrices."""
    return sum(
        (a * b).sum()
        for field in polytope.fields
        for a, b in combinations(in_frame(field, points), 2)
    )
