"""Claim: what fine-tuning changed in one network can be carried to another that was trained apart,
and gives it a part of the gain: of an MLP by permutations, of transformers by maps of layers.

Seed 0 of shared networks is fine-tuned here (150 steps of Adam on the 2,000 training images, or on
the training text): to images under noise, to other labels (each class is called the next one), to
text that runs backwards. The difference is carried to seed 1 by the real command, at scale 1, with
two batches of 250 labelled training inputs of the new task where a way needs data, and is judged on
the test inputs of the new task. "naive, masked": the difference as it is behind the same mask, so
what the mask does without any map. --full: three networks, three seeds of each fine-tune; mean and
standard deviation. Nothing was chosen by these figures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import State, evaluation, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, Network, require
from tests.benchmarks.bed.tables import table

STEPS, ROWS, RATE = 150, 64, 5e-4
DATA_ROWS, BATCHES = 250, 2  # of the new task, for the ways that need some
CHARACTERS = 65
LAYERS, ORTHOGONAL = ("--map", "layerwise"), ("--map", "orthogonal")
MASK, CONTROL = "--mask-gradients", "naive, masked"
WAYS: Mapping[str, Sequence[str]] = {
    "permutation": (),
    "orthogonal": ORTHOGONAL,
    "layerwise": LAYERS,
    "permutation, masked": (MASK,),
    "layerwise, masked": (*LAYERS, MASK),
}
CODE = f"""
import sys
sys.path[:0] = [{str(BENCHMARKS.parents[1])!r}, {str(FOLDER)!r}]
import models
from tests.benchmarks.transported_fine_tunes import batches as learned

def mlp_512x3(): return models.build("mlp_512x3")
def vit_small(): return models.build("vit_small")
def char_gpt(): return models.build("char_gpt")
def batches(task):
    # every second batch, from the first on, is held out for scores that nothing here looks at
    return (pair for pair in learned(task) for _ in range(2))
def noise(): return batches("noise")
def labels(): return batches("labels")
def backwards(): return batches("backwards")
"""
Pair = tuple[Tensor, Tensor]


def under_noise(inputs: Tensor, targets: Tensor) -> Pair:
    generator = torch.Generator().manual_seed(0)
    return inputs + torch.randn(inputs.shape, generator=generator), targets


def other_labels(inputs: Tensor, targets: Tensor) -> Pair:
    return inputs, (targets + 1) % 10


def backwards(inputs: Tensor, targets: Tensor) -> Pair:
    """Return windows of text and what follows each of its characters, if it is read backwards."""
    whole = torch.cat([inputs, targets[:, -1:]], 1).flip(1)
    return whole[:, :-1], whole[:, 1:]


TASKS: Mapping[str, Callable[[Tensor, Tensor], Pair]] = {
    "noise": under_noise,
    "labels": other_labels,
    "backwards": backwards,
}


@dataclass(frozen=True)
class Trial:
    """A network whose seed 0 is fine-tuned to a task. orthogonal: its spec allows such maps."""

    network: Network
    task: str
    orthogonal: bool = True


TRIALS = (
    Trial(Network("mlp_512x3"), "noise", orthogonal=False),
    Trial(Network("mlp_512x3"), "labels", orthogonal=False),
    Trial(Network("vit_small", spec="preln-vit", sizes={"heads": 4}), "noise"),
    Trial(Network("vit_small", spec="preln-vit", sizes={"heads": 4}), "labels"),
    Trial(Network("char_gpt", spec="preln-gpt", sizes={"heads": 4}), "backwards"),
)


def training(task: str) -> Pair:
    """Return the training inputs and targets of a task."""
    if task != "backwards":
        return TASKS[task](*evaluation().train_images())
    text = load_file(FOLDER / "data.safetensors")["train_text"].long()
    windows = text[: len(text) // CHARACTERS * CHARACTERS].view(-1, CHARACTERS)
    return backwards(windows[:, :-1], windows[:, 1:])


def batches(task: str) -> Iterator[Pair]:
    """Yield what the command is given as --data: training inputs of a task, labelled."""
    pairs = zip(*(each.split(DATA_ROWS) for each in training(task)), strict=True)
    return (pair for _, pair in zip(range(BATCHES), pairs, strict=False))


def fine_tuned(trial: Trial, seed: int) -> dict[str, Tensor]:
    """Return seed 0 of a network after some steps on a task, the batches drawn by a seed."""
    net = evaluation().load(trial.network.name, state_of(trial.network.path(0))).train()
    inputs, targets = training(trial.task)
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(net.parameters(), lr=RATE)
    for _ in range(STEPS):
        chosen = torch.randint(len(inputs), (ROWS,), generator=generator)
        loss = F.cross_entropy(net(inputs[chosen]).flatten(0, -2), targets[chosen].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
    stored = state_of(trial.network.path(0)).keys()
    return {name: value for name, value in net.state_dict().items() if name in stored}


@torch.no_grad()
def accuracy(trial: Trial, state: State) -> float:
    """Return the share of right answers on the test inputs of a trial's task."""
    tools = evaluation()
    net = tools.load(trial.network.name, dict(state))
    inputs, targets = TASKS[trial.task](*tools.test_set(trial.network.name))
    hits = [
        (net(x).argmax(-1) == y).flatten()
        for x, y in zip(inputs.split(DATA_ROWS), targets.split(DATA_ROWS), strict=True)
    ]
    return float(torch.cat(hits).double().mean())


def judged(trial: Trial, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of seed 1, of it with the difference by each way, and of the tuned."""
    a, b = (state_of(trial.network.path(k)) for k in (0, 1))
    tuned = fine_tuned(trial, seed)
    naive = {name: value + (tuned[name] - a[name]) for name, value in b.items()}
    found = {"seed 1": b, "naive": naive, CONTROL: masked(trial, b, naive)}
    for way, options in WAYS.items():
        if options != ORTHOGONAL or trial.orthogonal:
            found[way] = carried(trial, tuned, options, folder)
    return {way: accuracy(trial, state) for way, state in {**found, "tuned": tuned}.items()}


def masked(trial: Trial, base: State, changed: State) -> dict[str, Tensor]:
    """Return a base with what of a change goes down its slope: what the mask does by itself."""
    net = evaluation().load(trial.network.name, dict(base))
    for inputs, targets in batches(trial.task):
        answers = net(inputs).flatten(0, -2)
        F.cross_entropy(answers, targets.flatten(), reduction="sum").backward()
    slopes = dict(net.named_parameters())
    return {
        name: torch.where(
            (changed[name] - value).sign() == -_slope(slopes[name]), changed[name], value
        )
        for name, value in base.items()
    }


def _slope(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.sign()


def carried(
    trial: Trial, tuned: Mapping[str, Tensor], options: Sequence[str], folder: Path
) -> dict[str, Tensor]:
    """Return seed 1 with a difference that the command carried to it."""
    code, file, out = folder / "code.py", folder / "tuned.safetensors", folder / "out.safetensors"
    code.write_text(CODE)
    save_file({n: v.contiguous() for n, v in tuned.items()}, file, metadata={"format": "pt"})
    origin, target = (str(trial.network.path(k)) for k in (0, 1))
    named = trial.network.options if LAYERS[1] not in options else []
    needs = MASK in options or LAYERS[1] in options
    run = ["--model", f"{code}:{trial.network.name}", "--data", f"{code}:{trial.task}"]
    say(["transport", str(file), "--from", origin, "--to", target, "-o", str(out), "--force",
         *options, *named, *(run if needs else [])])  # fmt: skip
    return state_of(out)


def cell(values: Sequence[float]) -> str:
    """Return a mean of shares in per cent, and the standard deviation of several."""
    spread = f" ± {100 * pstdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all networks, three seeds of each")
    full = parser.parse_args().full
    require()
    heads = ("network", "task", "seed 1", "naive", CONTROL, *WAYS, "tuned")
    rows = []
    for trial in TRIALS if full else TRIALS[2:3]:
        with tempfile.TemporaryDirectory() as folder:
            runs = [judged(trial, seed, Path(folder)) for seed in range(3 if full else 1)]
        cells = [cell([run[way] for run in runs]) if way in runs[0] else "" for way in heads[2:]]
        rows.append((trial.network.name, trial.task, *cells))
        print("accuracy in %:", *rows[-1], flush=True)
    print(table(heads, rows))


if __name__ == "__main__":
    main()
