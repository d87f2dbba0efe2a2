"""Sinkhorn re-basin: soft permutations made from free matrices, which gradients improve.

Source: Guerrero Peña et al. 2023 (arXiv 2212.12042), with losses on weights. Deviations:
(1) the temperature falls; (2) a group inside another has a matrix for each pair of units that
it is in, so that every point is a mixture of permutations that the spec allows; (3) the best
rounding seen on the way is returned, not the last; (4) the implicit gradient is found by
iteration, where a linear system of 2 n unknowns is solved in the publication.

    P = diag(r) exp(M / T) diag(c), r and c such that rows and columns of P sum to 1

for a free matrix M (n, n) of each group and temperature T; as T falls P nears a permutation. Under
squares a permutation is worth what it is to the other methods; what this adds is losses that
are not bilinear, such as absolute distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import Chain
from rebasin_cli.matching.relaxation.losses import Loss, at_vertex
from rebasin_cli.matching.relaxation.polytope import Polytope
from rebasin_cli.matching.relaxation.soft_fields import Field, GroupNames
from rebasin_cli.permutation import Permutation, Permutations

STEPS = 200
RATE = 0.1  # as published for multilayer perceptrons
NORMALISATIONS = 20  # of rows and of columns, as published
WARM, COLD = 1.0, 0.1  # temperatures of the first and of the last step
NOISE = 0.01  # tells units apart where all are alike, in the middle
CERTAIN = 3.0  # an entry of a start: it has 20 times the weight of another in its row
FAINT = -60.0  # the logarithm of the least weight in a row, so that no column vanishes in float32
PATIENCE = 5  # roundings that were no better, before it stops
LOOKS = 10  # steps from one rounding to the next: an assignment costs more than a step


@dataclass(frozen=True)
class ScoreMatrices:
    """The matrices behind the soft permutations of chains, by the groups from the root down.

    matrices: of groups with sizes a, b, c, the last inside the others: (a, a, b, b, c, c), rows
    before columns. Chains that begin alike share them; groups that may not move have none.
    """

    chains: Mapping[GroupNames, Chain]
    matrices: Mapping[GroupNames, Tensor]

    def soft(self, temperature: float) -> dict[GroupNames, Tensor]:
        """Return the doubly stochastic (N, N) matrix of every chain."""
        made = {g: _doubly_stochastic(m / temperature) for g, m in self.matrices.items()}
        return {groups: _product(chain, made) for groups, chain in self.chains.items()}


def starting_scores(
    polytope: Polytope, start: Permutations | None, generator: torch.Generator
) -> ScoreMatrices:
    """Return matrices that begin at permutations; start None: in the middle of all."""
    like, matrices = polytope.fields[0].arrays[0], dict[GroupNames, Tensor]()
    for part in _beginnings(polytope):
        if polytope.groups[part.groups[-1]].fixed:
            continue
        shape = [size for size in part.shape for _ in "rc"]
        values = NOISE * torch.randn(shape, generator=generator)
        if start is not None:
            values += CERTAIN * _vertex(part, start)
        matrices[part.groups] = values.to(like).requires_grad_()
    return ScoreMatrices(polytope.chains, matrices)


def improve(
    polytope: Polytope, loss: Loss, start: Permutations | None, seed: int
) -> dict[str, Permutation]:
    """Return the permutations of least loss that were met on the way down."""
    here = starting_scores(polytope, start, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(here.matrices.values(), lr=RATE)
    least, best, idle = float("inf"), dict[str, Permutation](), 0
    for step in range(STEPS + 1):
        soft = here.soft(WARM * (COLD / WARM) ** (step / STEPS))
        if step % LOOKS == 0:
            rounded = polytope.vertex({g: m.detach() for g, m in soft.items()}, {})
            reached = at_vertex(polytope, loss, polytope.orders(rounded))
            idle = 0 if reached < least else idle + 1
            # The loss of a rounding may rise while that of the soft ones falls.
            least, best = (reached, rounded) if reached < least else (least, best)
            if least == 0 or idle == PATIENCE:
                break
        optimizer.zero_grad()
        torch.autograd.backward([soft_loss(polytope.fields, loss, soft)])
        optimizer.step()
    return best


def soft_loss(fields: Sequence[Field], loss: Loss, soft: Mapping[GroupNames, Tensor]) -> Tensor:
    """Return the loss of the other model under soft permutations, differentiable in them."""
    losses = []
    for field in fields:
        reference, other = field.arrays
        for k, chain in enumerate(field.chains):
            other = torch.tensordot(soft[chain.groups], other, ([1], [k])).movedim(0, k)
        losses.append(loss.apart(reference, other))
    return torch.stack(losses).sum()


class Normalised(torch.autograd.Function):
    """exp(scores), scaled until the rows and columns (the last two axes) sum to 1.

    The gradient is that of the fixed point, by as many steps as were taken towards it: no step
    is remembered.

    With F = P o dL/dP the gradient by the scores is F - P o (u 1' + 1 v'), where u and v keep the
    sums of rows and columns: u + P v = F 1 and P' u + v = F' 1. Both are solved in turn. The
    system is singular (a constant may go from v to u), but u 1' + 1 v' is not touched by that.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        # Rows first, as logarithms, so that nothing overflows whatever the scores are. After that
        # entries lie between exp(FAINT) and 1, and plain products will do.
        kernel = scores.log_softmax(-1).clamp(min=FAINT).exp()
        columns = torch.ones_like(kernel[..., :1])
        for _ in range(NORMALISATIONS):
            rows = 1 / (kernel @ columns)
            columns = 1 / (kernel.mT @ rows)
        soft = rows * kernel * columns.mT
        ctx.save_for_backward(soft)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        soft: Tensor = ctx.saved_tensors[0]
        flow = soft * gradients[0]
        down, across = flow.sum(-1, keepdim=True), flow.sum(-2, keepdim=True).mT
        columns = torch.zeros_like(across)
        for _ in range(NORMALISATIONS):
            rows = down - soft @ columns
            columns = across - soft.mT @ rows
        return flow - soft * (rows + columns.mT)


def _doubly_stochastic(scores: Tensor) -> Tensor:
    apply: Callable[[Tensor], Tensor] = Normalised.apply
    return apply(scores)


def _product(chain: Chain, made: Mapping[GroupNames, Tensor]) -> Tensor:
    """Return a chain's soft permutation: the product of its groups', as one matrix.

    P[(a, b), (a', b')] = A[a, a'] B[a, a', b, b'], with A and each B[a, a'] doubly stochastic: a
    row sums to sum over a' of A[a, a'] = 1, and all of a pair of parents weigh what the pair does.
    """
    product = next(iter(made.values())).new_ones(())
    for depth, size in enumerate(chain.shape, 1):
        eye = torch.eye(size, dtype=product.dtype, device=product.device)
        product = product[..., None, None] * made.get(chain.groups[:depth], eye)
    return _squared(product)


def _squared(pairs: Tensor) -> Tensor:
    """Return (a, a, b, b, ...) as a matrix, rows before columns."""
    rows, columns = range(0, pairs.dim(), 2), range(1, pairs.dim(), 2)
    size = round(pairs.numel() ** 0.5)
    return pairs.permute(*rows, *columns).reshape(size, size)


def _vertex(chain: Chain, permutations: Permutations) -> Tensor:
    """Return 1 for each unit of the model in its place, as (a, a, b, b, ...)."""
    rows = torch.zeros(chain.size, chain.size)
    rows[torch.arange(chain.size), chain.order(permutations)] = 1
    depth = len(chain.shape)
    axes = [axis for k in range(depth) for axis in (k, depth + k)]
    return rows.reshape(*chain.shape, *chain.shape).permute(axes)


def _beginnings(polytope: Polytope) -> Iterator[Chain]:
    """Yield every chain cut off after each of its groups, each once."""
    seen = set[GroupNames]()
    for chain in polytope.chains.values():
        for depth in range(1, len(chain.groups) + 1):
            groups = chain.groups[:depth]
            if groups not in seen:
                seen.add(groups)
                yield Chain(groups, chain.shape[:depth], chain.axes[:depth])
