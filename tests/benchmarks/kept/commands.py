"""One pair of models through the commands, and what is wrong with what they wrote."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.kept.forms import beside, read, tensors
from tests.benchmarks.kept.function import computed, function_change
from tests.benchmarks.kept.kinds import NotLoadedError
from tests.benchmarks.kept.result import Result, Side, Trial
from tests.cli.harness import Done, rebasin

ACCEPTED = 1e-4  # relative: some norms and softmaxes compute in float32 whatever they are given
LONGEST = 300  # letters of a message
PATIENCE = 600  # seconds for one command on a busy machine
State = Mapping[str, Tensor]
INPUT_ERRORS = (2, 3, 4)  # exit codes that an input or the machine explains


def tried(
    trial: Trial, folder: Path, seeds: tuple[int, int], run: Callable[..., Done] = rebasin
) -> Result:
    """Return what the commands make of two random models, in a new folder."""
    folder.mkdir()
    pair = Pair(trial, folder, run)
    for side, path, seed in zip((trial.a, trial.b), (pair.a, pair.b), seeds, strict=True):
        side.form.write(side.kind, side.kind.model(seed), path)
    return pair.result()


class Pair:
    """The commands on one pair of models, and where they put what they make."""

    def __init__(self, trial: Trial, folder: Path, run: Callable[..., Done]) -> None:
        self._trial, self._folder, self._command = trial, folder, run
        self.a, self.b = self._path("a", trial.a), self._path("b", trial.b)
        self._aligned, self._merged = self._path("aligned", trial.b), self._path("merged", trial.a)
        self._model: tuple[str, ...] = ()

    def result(self) -> Result:
        start = time.perf_counter()
        done = self._align()
        if done.code:
            return self._refused(done)
        spec = next(event["spec"] for event in done.events if "spec" in event)
        change, broken = self._function()
        wrong = (*broken, *self._merge(), *self._lerp())
        moved = _changed(tensors(self.b), tensors(self._aligned))
        seconds = time.perf_counter() - start
        return Result(self._trial, spec, seconds, moved, change, wrong=wrong)

    def _refused(self, done: Done) -> Result:
        """Return what is wrong with a refusal: a bug, or a hint that breaks the function."""
        said = _said(done)
        if done.code not in INPUT_ERRORS:
            return Result(self._trial, refused=said, wrong=(f"exit {done.code}",))
        a, b = tensors(self.a).keys(), tensors(self.b).keys()
        other = [word for name in sorted(a ^ b) for word in ("--skip", name)]
        if not (self._trial.refusable and a & b and "--skip" in done.out):
            return Result(self._trial, refused=said)
        done = self._align(*other)
        if done.code:
            return Result(self._trial, refused=f"{said}; with --skip: {_said(done)}")
        change, wrong = self._function()
        words = f"{said}; with --skip: {'not ' * bool(wrong)}kept"
        return Result(self._trial, change=change, refused=words, wrong=wrong)

    def _align(self, *more: str) -> Done:
        """Run align without naming a model; if no spec fits, again with it."""
        argv: tuple[str | Path, ...] = ("align", self.a, self.b, "-o", self._aligned, "--json")
        argv += more
        done = self._run(*argv)
        if done.code == 2 and "no bundled spec fits" in done.out:
            self._model = self._trial.a.kind.target
        return self._run(*argv, *self._model) if self._model else done

    def _function(self) -> tuple[float, tuple[str, ...]]:
        """Return by how much B's outputs change, and what is wrong with the aligned model."""
        kind = self._trial.b.kind
        lost = tuple(_lost(self.b, self._aligned, "aligned"))
        try:
            before, after = read(kind, self.b), read(kind, self._aligned)
        except NotLoadedError as error:
            return math.nan, (f"aligned does not load: {error}", *lost)
        change = max(function_change(before, after, one) for one in kind.examples(before))
        return change, lost if change <= ACCEPTED else (f"BROKEN by {change:.1e}", *lost)

    def _merge(self) -> Iterator[str]:
        done = self._run("merge", self.a, self.b, "-o", self._merged, *self._model)
        if done.code:
            yield from self._unmixed("merge", done)
            return
        yield from self._mixed(self._merged, "merged")

    def _lerp(self) -> Iterator[str]:
        done = self._run("lerp", self.a, self.b, "--at", "0,.5,1", "-o", self._folder / "line")
        if done.code:
            yield from self._unmixed("lerp", done)
            return
        first, middle, last = sorted((self._folder / "line").iterdir())
        yield from _unlike(tensors(first), tensors(self.a), "alpha 0")
        yield from self._last(last)
        yield from self._mixed(middle, "midpoint")

    def _last(self, path: Path) -> Iterator[str]:
        """Yield in what the point at 1 is not B: a model of A's class, in A's form."""
        found, wanted = tensors(path), tensors(self.b)
        if self._trial.a == self._trial.b:
            yield from _unlike(found, wanted, "alpha 1")
            return
        # Names as both have them: a backbone has no prefix, and a safetensors file no aliases.
        prefix = self._trial.a.kind.prefix
        bare, other = _without(prefix, found), _without(prefix, wanted)
        both = bare.keys() & other.keys()
        yield from _unlike({n: bare[n] for n in both}, {n: other[n] for n in both}, "alpha 1")

    def _unmixed(self, command: str, done: Done) -> Iterator[str]:
        """Yield what a mixture says that is refused, where the two are of one kind."""
        if not (self._trial.refusable and done.code in INPUT_ERRORS):
            yield f"{command}: {_said(done)}"

    def _mixed(self, path: Path, what: str) -> Iterator[str]:
        """Yield what is wrong with an average of the two, a model of A's class."""
        kind = self._trial.a.kind
        yield from _lost(self.a, path, what)
        try:
            model = read(kind, path)
        except NotLoadedError as error:
            yield f"{what} does not load: {error}"
            return
        outputs = computed(model, kind.examples(model)[0])
        if not all(bool(value.isfinite().all()) for value in outputs.values()):
            yield f"{what} gives outputs that are not finite"

    def _path(self, name: str, side: Side) -> Path:
        return self._folder / f"{name}{side.form.end}"

    def _run(self, *argv: str | Path) -> Done:
        cache = str(self._folder.parent / "cache")
        environment = {"XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
        return self._command(*argv, cwd=self._folder, env=environment, seconds=PATIENCE)


def _unlike(found: State, wanted: State, what: str) -> Iterator[str]:
    """Yield in what the end of a line differs from the model that it should be."""
    names = [n for n in wanted if n in found and not _equal(found[n], wanted[n])]
    if names:
        yield f"{what} is not the model in {len(names)} tensors, as {names[0]}"
    if wanted.keys() != found.keys():
        yield f"{what} has other tensors than the model, as {min(wanted.keys() ^ found.keys())}"


def _without(prefix: str, state: State) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _lost(given: Path, out: Path, what: str) -> Iterator[str]:
    """Yield what lies beside the weights before and not after."""
    before, after = beside(given), beside(out)
    for name in sorted(before):
        if before[name] != after.get(name):
            yield f"{what} has another {name}" if name in after else f"{what} lacks {name}"


def _changed(before: State, after: State) -> float:
    """Return the share of elements that differ."""
    pairs = [(tensor, after[name]) for name, tensor in before.items() if name in after]
    differing = sum(int((one != two).sum()) for one, two in pairs if one.shape == two.shape)
    return differing / max(1, sum(one.numel() for one, _ in pairs))


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)


def _said(done: Done) -> str:
    """Return what a command that failed says, in one line."""
    events = [json.loads(line) for line in done.lines if line.startswith("{")]
    errors = [event for event in events if event["event"] == "error"]
    text = " | ".join(f"{e['message']} {e.get('detail', '')}" for e in errors) or done.err
    return f"exit {done.code}: {' '.join(text.split())[:LONGEST]}"
