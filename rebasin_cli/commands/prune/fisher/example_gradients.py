"""The gradient of the loss of each example by itself: rows of a batch, each a batch of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rebasin_cli.errors import MachineError, UserCodeError, warn
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.user.batch_inputs import fit_batch, named_targets
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.scoring.answers import class_axis
from rebasin_cli.network.scoring.scores import judge_batch, logits_of
from rebasin_cli.network.user_code import users_code, users_gradient
from rebasin_cli.tensors.blocks import Window
from rebasin_cli.tensors.trees import map_leaves, tensors_in

Gradients = Mapping[str, Tensor]
_COPIES = 4  # of the gradients: as they are found, as float64, and what a layer needs beside them


class _OneByOne(Exception):
    """Batches of this kind have no loss that can be computed for all rows at once."""


class ExampleLosses:
    """A model in eval mode, and data with right answers or a loss of the model's own.

    windows: where tensors of the checkpoint lie in the model, by their names in the checkpoint.
    An example's loss is the mean over its answers. Gradients are computed for many examples at once
    (torch.func.vmap) until model or data turn out not to allow it, then for one after the other.
    """

    def __init__(self, model: nn.Module, windows: Mapping[str, Window], batches: Batches) -> None:
        self._model, self._windows, self._batches = model, windows, batches
        self._at_once = True

    def gradients(self, names: Sequence[str], room: int) -> Iterator[Gradients]:
        """Yield the gradients of some tensors by name, (examples, *shape), on the CPU.

        Some examples a time: room: bytes that these may take, as far as one example does with it.
        Raises UserCodeError for a loss that has none.
        """
        held = self._model.state_dict(keep_vars=True)
        places = {name: self._windows[name] for name in names}
        wanted = {window.source: held[window.source] for window in places.values()}
        bytes_each = sum(tensor.numel() * tensor.element_size() for tensor in wanted.values())
        most = max(1, room // (_COPIES * max(bytes_each, 1)))
        for batch in self._batches:
            for chunk in _chunks(fit_batch(batch, self._model), most):
                found = self._of_chunk(chunk, wanted)
                yield {name: _window(found[w.source].cpu(), w) for name, w in places.items()}

    def _of_chunk(self, chunk: Batch, wanted: Mapping[str, Tensor]) -> Gradients:
        """Return gradients by name in the model."""
        if self._at_once:
            try:
                with users_code("the model"):
                    return _at_once(self._model, chunk, wanted)
            except (UserCodeError, MachineError) as error:  # if it is theirs, one by one tells so
                reason = " ".join(str(error.__cause__).strip().splitlines()[:1])
                said = f"gradients are taken example by example, which takes longer: {reason}"
                warn(said)
                self._at_once = False
        rows = [_of_one(self._model, row, wanted, self._batches.name) for row in _chunks(chunk, 1)]
        return {name: torch.stack([row[name] for row in rows]) for name in wanted}


def _chunks(batch: Batch, most: int) -> Iterator[Batch]:
    """Yield a batch in pieces of a number of rows."""
    return (batch.cut(begin, begin + most) for begin in range(0, batch.rows, most))


def _window(gradients: Tensor, window: Window) -> Tensor:
    """Return a window of each of several tensors that lie behind one another."""
    whole = gradients.contiguous()
    steps = (whole[0].numel(), *window.strides)
    return whole.as_strided((len(whole), *window.shape), steps, window.offset)


def _at_once(model: nn.Module, batch: Batch, wanted: Mapping[str, Tensor]) -> Gradients:
    """Return the gradients of all rows of a batch. Raises whatever vmap makes of the model."""
    call = (batch.example.args, dict(batch.example.kwargs), batch.targets)
    rows = [tensor for tensor in tensors_in(call) if batch.in_rows(tensor)]

    def loss(weights: Mapping[str, Tensor], *row: Tensor) -> Tensor:
        parts = iter(row)
        own = map_leaves(call, Tensor, lambda t: next(parts)[None] if batch.in_rows(t) else t)
        args, kwargs, targets = own
        return _loss_of(functional_call(model, dict(weights), args, kwargs), kwargs, targets)

    weights = {name: tensor.detach() for name, tensor in wanted.items()}
    with torch.no_grad():  # of what is not wanted there would be a second graph, kept by the result
        found: Gradients = vmap(grad(loss), (None, *(0 for _ in rows)))(weights, *rows)
    return found


def _loss_of(returned: Any, kwargs: Mapping[str, object], targets: Tensor | None) -> Tensor:
    """Return the mean loss over the answers of one example, told from shapes alone."""
    own = returned.get("loss") if targets is None and isinstance(returned, Mapping) else None
    if isinstance(own, Tensor):
        return own
    targets = named_targets(kwargs) if targets is None else targets
    if targets is None or targets.is_floating_point():
        raise _OneByOne("the targets are no classes")
    logits = logits_of(returned)
    axis = class_axis(logits, targets) if logits.dim() > 1 else None
    if axis is None:
        raise _OneByOne("the targets have another shape than the answers")
    rows = logits.movedim(axis, -1).flatten(0, -2).double()
    classes = targets.flatten().long()
    counted = F.cross_entropy(rows, classes, reduction="sum")
    return counted / (classes >= 0).sum().clamp(min=1)


def _of_one(
    model: nn.Module, row: Batch, wanted: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    for tensor in wanted.values():
        tensor.requires_grad_()
    loss, _, answers = judge_batch(model, row, name)
    with users_gradient(loss, hint="--method magnitude needs none"):
        found = torch.autograd.grad(loss / max(answers, 1), [*wanted.values()], allow_unused=True)
    pairs = zip(wanted.items(), found, strict=True)
    return {name: torch.zeros_like(t) if g is None else g for (name, t), g in pairs}
