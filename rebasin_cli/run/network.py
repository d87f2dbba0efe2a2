"""Building the model that a plan names, with the weights of a checkpoint or a mixture of some."""

from __future__ import annotations

import torch
from torch import nn

from rebasin_cli.evaluate import Batches, Judge, cross_entropy_judge, own_judge, users_code
from rebasin_cli.models.weights import fill
from rebasin_cli.plan.machine import Machine
from rebasin_cli.plan.network import Door, Network
from rebasin_cli.plan.options import Options
from rebasin_cli.tensors import TensorSource


def built(network: Network, source: TensorSource, machine: Machine) -> nn.Module:
    """Return the model with the tensors of a source, in eval mode, on the device of the plan."""
    with users_code("the model"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network.subject.build()
    fill(model, source, network.windows)
    return model.to(machine.device).eval()


def batches_of(door: Door, machine: Machine, options: Options) -> Batches:
    """Return the data of a plan that has some, on its device."""
    assert door.data is not None, "the plan has seen to it"
    return Batches(
        door.data,
        name=options.running.data or "",
        limit=options.running.batches,
        device=machine.device,
        seed=options.seed,
    )


def judge_of(door: Door, machine: Machine, options: Options) -> Judge:
    """Return how the plan's models are judged: by the user's function, else on the data."""
    if door.evaluate is not None:
        return own_judge(door.evaluate, options.running.evaluate or "")
    return cross_entropy_judge(batches_of(door, machine, options))
