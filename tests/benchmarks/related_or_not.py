"""Claim: `related` tells disguised copies from fine-tunes, and both from independent runs.

Of seed 0 of each network: copies that compute the same, permuted, rotated, its units scaled, maps
and their inverses inside attention heads ("invertible pairs" of Merge-Lock, arXiv 2509.01548), and
all of these at once; copies with something done to them, rounded to float16, to 8 and to 4 bits and
back, pruned; what training makes of it, 150 steps of Adam on another task (labels of the next
class, images under noise, text backwards), as a LoRA of rank 4, and 400 steps at four times the
rate; disguised fine-tunes; half of the matrices new; means of two fine-tunes, as they are and with
one of them permuted. None comes from it: a network of another seed, one distilled from its outputs,
a random one. Each is given to the real command with seed 0; "outputs differ" is of those that claim
to compute the same, in float64. Thresholds are those of rebasin_cli/commands/related; this is where
their figures come from. Without arguments the ViT; --full has six networks and all pairs of seeds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.bed import disguises as made
from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import State, difference, evaluation, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, SEEDS, Network, require
from tests.benchmarks.bed.tables import Row, number, table

STEPS, ROWS, RATE = 150, 64, 5e-4
TEXT_ROWS = 12  # windows of text, of 64 characters each
LONG, FAST = 400, 2e-3
CHARACTERS = 65
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rebasin-benchmarks"
OVER_BASE = {
    "sum": ("--combine", "task-arithmetic", "--weights", "0.8,0.7"),
    "ties": ("--combine", "ties", "--density", "0.2"),
    "dare": ("--combine", "dare", "--density", "0.5"),
    "dare-ties": ("--combine", "dare-ties", "--density", "0.5"),
}
HEADS = (
    "network",
    "what it is",
    "said",
    "right",
    "score",
    "null",
    "kept",
    "outputs differ",
    "CPU s",
)
TRAINED, INDEPENDENT = "related by training", "independent"


@dataclass(frozen=True)
class Bed:
    """A network, where its seeds are, and whether its stream can be rotated."""

    network: Network
    folder: Path = FOLDER
    rotates: bool = False

    def path(self, seed: int) -> Path:
        return self.folder / self.network.path(seed).name

    @property
    def text(self) -> bool:
        return self.network.name in ("char_gpt", "tiny_llama")


BEDS = (
    Bed(Network("vit_small", spec="preln-vit", sizes={"heads": 4}), rotates=True),
    Bed(Network("char_gpt", spec="preln-gpt", sizes={"heads": 4}), rotates=True),
    Bed(Network("tiny_llama", spec=str(BENCHMARKS / "specs" / "tiny_llama.yaml")), CACHE, True),
    Bed(Network("mlp_512x3")),
    Bed(Network("vgg_bn", spec=str(BENCHMARKS / "specs" / "vgg_bn.yaml"))),
    Bed(Network("resnet20_bn_x1")),
)


@dataclass(frozen=True)
class Case:
    """A model beside seed 0, and what it is. same: it computes what seed 0 does."""

    name: str
    state: State
    expected: str
    same: bool = False


def cases(bed: Bed) -> Iterator[Case]:
    """Yield all that is made of seed 0 of a network, and what is not."""
    base = state_of(bed.path(0))
    tuned, other = (tuned_from(bed, base, seed) for seed in (0, 1))
    yield from copies(bed, base)
    yield from changed(base)
    yield Case("fine-tuned", tuned, TRAINED)
    yield Case("fine-tuned, long", tuned_from(bed, base, 2, steps=LONG, rate=FAST), TRAINED)
    yield Case("LoRA, merged", made.low_rank(base, tuned), TRAINED)
    yield Case("fine-tuned, disguised", disguised(bed, tuned), TRAINED)
    yield Case("pruned 50 %, then tuned", tuned_from(bed, made.pruned(base, 0.5), 0), TRAINED)
    yield Case("mean of two fine-tunes", made.mean(tuned, other), TRAINED)
    yield Case("half of it new", made.half_new(base, fresh(bed, 7)), "related in part")
    yield Case("distilled", distilled(bed, base), INDEPENDENT)
    yield Case("random", fresh(bed, 8), INDEPENDENT)


def copies(bed: Bed, base: State) -> Iterator[Case]:
    """Yield copies of seed 0 that compute the same, and hide it."""
    yield Case("permuted", moved(bed, base, made.permuted), "permuted copy", same=True)
    if bed.rotates:
        yield Case("rotated", moved(bed, base, made.rotated), "rotated copy", same=True)
    scaled = rescaled(bed, base)
    yield Case("scales or invertible pairs", scaled, "rescaled copy", same=True)
    yield Case("disguised", disguised(bed, base), "rescaled copy", same=True)


def changed(base: State) -> Iterator[Case]:
    """Yield copies of seed 0 with something done to their weights."""
    yield Case("float16", {n: half(v) for n, v in base.items()}, "rounded copy")
    yield Case("8 bits and back", made.quantised(base), "quantised copy")
    yield Case("4 bits, groups of 32", made.quantised(base, levels=7, group=32), "quantised copy")
    yield Case("pruned 50 %", made.pruned(base, 0.5), "pruned copy")
    yield Case("pruned 80 %", made.pruned(base, 0.8), "pruned copy")


def half(values: Tensor) -> Tensor:
    return values.half() if values.is_floating_point() else values


def moved(bed: Bed, state: State, how: made.Move) -> dict[str, Tensor]:
    return how(bed.network, bed.path(0), state)


def rescaled(bed: Bed, state: State) -> dict[str, Tensor]:
    """Return a copy with factors in it that the network takes back."""
    name = bed.network.name
    if name == "mlp_512x3":
        return made.scaled_perceptron(state)
    if name == "tiny_llama":
        return made.scaled_gates(state)
    if bed.rotates:
        return made.invertible_pairs(state)
    return made.scaled_channels(state, convolutions(state))


def convolutions(state: State) -> list[tuple[str, str]]:
    """Return the names of convolutions, each with that of the batch norm behind it."""
    pairs = []
    for norm in (n.removesuffix(".running_var") for n in state if n.endswith(".running_var")):
        stem, _, last = norm.rpartition(".")
        before = {"norm1": "conv1", "norm2": "conv2"}.get(last)
        before = before or str(int(last) - 1)
        pairs.append((f"{stem}.{before}" if stem else before, norm))
    return pairs


def disguised(bed: Bed, state: State) -> dict[str, Tensor]:
    """Return a copy behind everything at once."""
    hidden = rescaled(bed, state)
    hidden = moved(bed, hidden, made.rotated) if bed.rotates else hidden
    return moved(bed, hidden, made.permuted)


def fresh(bed: Bed, seed: int) -> dict[str, Tensor]:
    """Return the network as it begins, under the names of its files."""
    torch.manual_seed(seed)
    net = evaluation().models.build(bed.network.name)
    stored = state_of(bed.path(0))
    return {name: net.state_dict()[name].clone() for name in stored}


def data(bed: Bed, task: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of another task than that of the network."""
    if bed.text:
        text = load_file(FOLDER / "data.safetensors")["train_text"].long()
        windows = text[: len(text) // CHARACTERS * CHARACTERS].view(-1, CHARACTERS).flip(1)
        return windows[:, :-1], windows[:, 1:]
    inputs, targets = evaluation().train_images()
    if task % 2:
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
        return inputs + noise, targets
    return inputs, (targets + 1) % 10


def tuned_from(
    bed: Bed, state: State, seed: int, *, steps: int = STEPS, rate: float = RATE
) -> dict[str, Tensor]:
    """Return a state after some steps on another task; batches are drawn by a seed."""
    inputs, targets = data(bed, seed)
    return after_steps(bed, state, (inputs, targets), seed, steps, rate)


def distilled(bed: Bed, teacher: State) -> dict[str, Tensor]:
    """Return a fresh network after some steps on what seed 0 says of the training inputs."""
    inputs, _ = data(bed, 0)
    net = evaluation().load(bed.network.name, dict(teacher))
    with torch.no_grad():
        said = torch.cat([net(rows).softmax(-1) for rows in inputs[:2000].split(250)])
    return after_steps(bed, fresh(bed, 99), (inputs[:2000], said), 0, STEPS, FAST)


def after_steps(
    bed: Bed, state: State, pair: tuple[Tensor, Tensor], seed: int, steps: int, rate: float
) -> dict[str, Tensor]:
    inputs, targets = pair
    net = evaluation().load(bed.network.name, dict(state)).train()
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(net.parameters(), lr=rate)
    size = TEXT_ROWS if bed.text else ROWS
    for _ in range(steps):
        rows = torch.randint(len(inputs), (size,), generator=generator)
        outputs, wanted = net(inputs[rows]), targets[rows]
        flat = wanted.flatten(0, -2) if wanted.is_floating_point() else wanted.flatten()
        loss = F.cross_entropy(outputs.flatten(0, -2), flat)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {name: value.clone() for name, value in net.state_dict().items() if name in state}


def judged(bed: Bed, case: Case, folder: Path) -> Row:
    """Return what the command says of a case beside seed 0."""
    file = folder / "b.safetensors"
    save_file({n: v.contiguous() for n, v in case.state.items()}, file)
    said = say(["related", str(bed.path(0)), str(file), *bed.network.options])
    result = said.result
    apart = difference(bed.network, state_of(bed.path(0)), case.state) if case.same else None
    right = "yes" if result["relation"] == case.expected else f"NO, {case.expected}"
    figures = (number(result[key]) for key in ("score", "null", "kept"))
    outputs = "" if apart is None else f"{apart:.0e}"
    return (bed.network.name, case.name, result["relation"], right, *figures, outputs,
            number(said.cpu, 1))  # fmt: skip


def seeds_row(bed: Bed, pair: Sequence[int]) -> Row:
    """Return what the command says of two networks that were trained apart."""
    said = say(["related", *(str(bed.path(seed)) for seed in pair), *bed.network.options])
    result = said.result
    right = "yes" if result["relation"] == INDEPENDENT else "NO, independent"
    figures = (number(result[key]) for key in ("score", "null", "kept"))
    name = f"seeds {pair[0]} and {pair[1]}"
    return (bed.network.name, name, result["relation"], right, *figures, "", number(said.cpu, 1))


def merge_row(bed: Bed, folder: Path, *, hidden: bool) -> Row:
    """Return whether a mean is named with its two parents. hidden: one of them is permuted."""
    base = state_of(bed.path(0))
    tuned, other = (tuned_from(bed, base, seed) for seed in (0, 1))
    states: Mapping[str, State] = {
        "base": base,
        "tuned": moved(bed, tuned, made.permuted) if hidden else tuned,
        "other": other,
        "merge": made.mean(tuned, other),
    }
    files = [folder / f"{name}.safetensors" for name in states]
    for file, state in zip(files, states.values(), strict=True):
        save_file(dict(state), file)
    said = say(["related", *map(str, files), *bed.network.options])
    merges = [event for event in said.events if "merge" in event]
    found = [[Path(p).stem for p in (m["merge"], *sorted(m["parents"]))] for m in merges]
    right = found == [["merge", "other", "tuned"]]
    shares = " + ".join(f"{share:.2f}" for share in merges[0]["shares"]) if merges else "none"
    what = "merge, a parent permuted" if hidden else "merge, with its parents"
    left = f"left {merges[0]['left']:.1e}" if merges else ""
    return (bed.network.name, what, shares, "yes" if right else f"NO, {found}", "", "", "", left,
            number(said.cpu, 1))  # fmt: skip


def base_merge_rows(bed: Bed, folder: Path) -> Iterator[Row]:
    """Yield whether merges over seed 0 are named with their parents, a third fine-tune beside."""
    base = state_of(bed.path(0))
    files = [folder / f"{name}.safetensors" for name in ("base", "tuned", "other", "third")]
    for file, state in zip(
        files, (base, *(tuned_from(bed, base, seed) for seed in (0, 1, 2))), strict=True
    ):
        save_file(dict(state), file)
    for name, how in OVER_BASE.items():
        out = folder / f"{name}.safetensors"
        made_of = ["merge", *map(str, files[1:3]), "--base", str(files[0]), "--strategy", "none"]
        say([*made_of, *how, "-o", str(out), "--force", *bed.network.options])
        said = say(["related", *map(str, (*files, out)), *bed.network.options])
        merges = [event for event in said.events if "merge" in event]
        named = ((m["merge"], m["base"] or "", *m["parents"]) for m in merges)
        found = [[Path(path).stem for path in each] for each in named]
        right = found == [[name, "base", "tuned", "other"]]
        shares = " + ".join(f"{share:.2f}" for share in merges[0]["shares"]) if merges else "none"
        kept = number(merges[0]["kept"]) if merges else ""
        judged_so = "yes" if right else f"NO, {found}"
        what = f"merge over a base, {name}"
        yield (bed.network.name, what, shares, judged_so, "", "", kept, "", number(said.cpu, 1))


def rows(bed: Bed, *, full: bool) -> Iterator[Row]:
    """Yield the rows of a network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in cases(bed):
            yield judged(bed, case, folder)
        for hidden in (False, True):
            yield merge_row(bed, folder, hidden=hidden)
        yield from base_merge_rows(bed, folder)
    for pair in list(combinations(SEEDS, 2))[: None if full else 1]:
        yield seeds_row(bed, pair)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="six networks, all pairs of seeds")
    parser.add_argument("--network", help="this one alone")
    asked = parser.parse_args()
    require()
    beds = [bed for bed in BEDS if asked.network in (None, bed.network.name)]
    chosen = beds if asked.full or asked.network else beds[:1]
    there = [bed for bed in chosen if bed.path(0).is_file()]
    found = []
    for bed in there:
        for row in rows(bed, full=asked.full):
            found.append(row)
            print(" | ".join(row), flush=True)
    print()
    print(table(HEADS, found))
    print(f"right: {sum(row[3] == 'yes' for row in found)} of {len(found)}")


if __name__ == "__main__":
    main()
