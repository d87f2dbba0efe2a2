"""Only what goes down the target's own slope: the sign of a gradient as a mask (GradFix).

Source: arXiv 2510.09658: a coordinate of the difference counts where its sign is that of minus the
gradient of the target's loss, taken on a few labelled batches; the others are left out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rebasin_cli.commands.transport.tensor_fates import TensorFates
from rebasin_cli.commands.transport.transported import CarriedFrame, with_kept
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.module_weights import slopes_in
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.network import Network
from rebasin_cli.network.scoring.scores import judge_batch
from rebasin_cli.network.user_code import users_gradient
from rebasin_cli.options.machine import Machine
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.numbers import in_reals, is_floating
from rebasin_cli.tensors.torch_threads import one_thread


def slopes_of(
    network: Network, source: TensorSource, machine: Machine, batches: Batches
) -> dict[str, Tensor]:
    """Return the gradient of the loss over some batches, by name in the checkpoint.

    In eval mode; a tensor that the loss does not depend on has none. On the CPU and one thread,
    unless a device is named, as of `Machine.for_maps`: signs are the same under any load. Raises
    UserCodeError for a loss without a gradient.
    """
    model = build_network(network, source, machine.for_maps)
    for parameter in model.parameters():
        parameter.requires_grad_(is_floating(parameter.dtype))
    with one_thread():
        for batch in replace(batches, device=machine.for_maps.device):
            _add_slope(model, batch, batches.name)
    return {name: slope.cpu() for name, slope in slopes_in(model, network.windows).items()}


def _add_slope(model: nn.Module, batch: Batch, name: str) -> None:
    total, _, _ = judge_batch(model, batch, name)
    with users_gradient(total, hint="leave out --mask-gradients"):
        torch.autograd.backward([total])


def mask_frame(frame: CarriedFrame, fates: TensorFates, slopes: dict[str, Tensor]) -> CarriedFrame:
    """Return a frame whose difference keeps only coordinates that go against the slope in sign.

    Real and imaginary parts of complex tensors are separate coordinates. Tensors without a slope
    are kept whole.
    """
    kept = {
        name: _agrees(frame.tuned.load(name), frame.origin.load(name), slopes[name])
        for name in sorted(fates.carried & slopes.keys())
    }
    return with_kept(frame, kept)


def kept_share(frame: CarriedFrame) -> float:
    """Return the share of the coordinates of masked tensors that count."""
    total = sum(mask.numel() for mask in frame.kept.values())
    return sum(int(mask.sum()) for mask in frame.kept.values()) / max(total, 1)


def _agrees(tuned: Tensor, origin: Tensor, slope: Tensor) -> Tensor:
    delta = in_reals(tuned).double() - in_reals(origin).double()
    return delta.sign() == -in_reals(slope).sign().to(delta)
