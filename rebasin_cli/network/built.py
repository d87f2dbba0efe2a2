"""The user's code of a plan, ready to be run: the model with its tensors, its data, its judge."""

from __future__ import annotations

import torch
from torch import nn

from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import Network, UserCode
from rebasin_cli.network.scoring.scores import Judge, cross_entropy_judge, own_judge
from rebasin_cli.network.user_code import users_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.tensors import TensorSource


def build_network(network: Network, source: TensorSource, machine: Machine) -> nn.Module:
    """Return the model with the tensors of a source, in eval mode, on the device of the plan."""
    with users_code("the model"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network.subject.build()
    fill(model, source, network.windows)
    return model.to(machine.device).eval()


def batches_of(code: UserCode, machine: Machine) -> Batches:
    """Return the data of a plan, on its device. Raises UsageError, when asked, if there is none."""
    return Batches(
        code.loader,
        name=code.data.data or "",
        limit=code.data.batches,
        device=machine.device,
        seed=machine.seed,
    )


def judge_of(code: UserCode, machine: Machine) -> Judge:
    """Return how the plan's models are judged: by the user's function, else on the data."""
    if code.evaluate is not None:
        return own_judge(code.evaluate, code.data.evaluate or "")
    return cross_entropy_judge(batches_of(code, machine))
