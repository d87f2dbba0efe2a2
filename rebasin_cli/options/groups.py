"""What the user asked for, common to all commands, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from rebasin_cli.checkpoint import Reading
from rebasin_cli.checkpoint.torch_format.container import is_extra_state
from rebasin_cli.progress import Progress, Warn, silent, unheard


@dataclass(frozen=True)
class Tracing:
    """Which model is traced and how: --model and its companions, the arguments of `spec trace`.

    target: None: none, unless no bundled spec fits. arguments: of its constructor. shape, inputs:
    what it is fed (`file.py:function`, all of them recorded); neither: rows of the first batch of
    `data`, else what the library or a guess says. outputs, free_outputs, buffers: see `Choices`.
    trust: also use what was not validated. cache: look up and keep results. progress: told when
    a model is traced.
    """

    target: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    inputs: tuple[str, ...] = ()
    data: str | None = None
    outputs: tuple[str, ...] = ()
    free_outputs: bool = False
    buffers: tuple[str, ...] = ()
    trust: bool = False
    cache: bool = True
    progress: Progress = field(default=silent, compare=False, repr=False)


@dataclass(frozen=True)
class Searching:
    """How permutations are searched for; the words are those of `matching.Settings`.

    starts: tried in turn, besides `restarts` random ones; None: the usual.
    """

    method: str = "auto"
    loss: str = "l2"
    effort: str = "default"
    order: str = "random"
    starts: tuple[str, ...] | None = None
    restarts: int = 0
    fast: bool = False


@dataclass(frozen=True)
class Running:
    """What a model is run on, and how it is judged: targets that name a user's own code.

    data: what yields batches. evaluate: a function of the module; None: cross-entropy and accuracy
    on the data. batches: how many of each pass are used; None: all.
    """

    data: str | None = None
    evaluate: str | None = None
    batches: int | None = None


@dataclass(frozen=True)
class Learning:
    """How permutations are learned from the loss on data.

    rate: of the first step, in lengths of the reference. held_out: share of the batches to choose
    by. check: batches between two looks at those; None: one look an epoch. state: a file in which
    every epoch is saved, and from which learning goes on.
    """

    epochs: int = 10
    rate: float = 1e-2
    held_out: float = 0.2
    check: int | None = None
    state: Path | None = None


@dataclass(frozen=True)
class Activations:
    """How units are compared by what they do.

    statistics: a file of it; None: the models are run. similarity: a key of `SIMILARITIES`.
    mix: the share of the activations, the rest are the weights. moment, reach: where units are
    looked at, after or before their activation, of a residual stream in all places or the last.
    """

    statistics: Path | None = None
    similarity: str = "inner"
    mix: float = 1.0
    moment: str = "after"
    reach: str = "all"


@dataclass(frozen=True)
class Rename:
    """A regular expression over the names in files, and what it becomes.

    model: the number of the one model that it is for, from 1; None: all.
    """

    old: str
    new: str
    model: int | None = None

    def __str__(self) -> str:
        return f"{f'{self.model}:' if self.model else ''}{self.old}={self.new}"


@dataclass(frozen=True)
class Options:
    """Options that mean the same in every command.

    spec: name or file; None: that of `tracing.target`, else chosen from the bundled ones.
    sizes: named sizes from --set.
    only, skip: globs over tensor names. pass_through: of those that a spec need not name. common:
    tensors may have other shapes, and what both have counts. key: dotted path to the state dict
    inside a .pt file. only_part: as key, and no other part follows it. drop_rest: nothing else is
    written but parts. renames: applied in turn to the names in files. ignore_classes: leave out
    what nested files hold of foreign classes. dequantize: read codes and scales as the weights that
    they stand for.
    out, format, dtype: where and how results are written; out_folder: `out` was written with a
    slash at its end, so it is a folder even if it is not there yet. max_memory: bytes; None:
    half of what is free. card: the command line that a model card is to show; None: no card is
    written. figures: units are compared one by one too; margins: and how sure their assignment is.
    check: whether the function stays, by running the model; None: if it is of the usual size.
    warn: told what is odd about the inputs, although the work goes on.
    """

    spec: str | None = None
    tracing: Tracing = field(default_factory=Tracing)
    sizes: Mapping[str, int] = field(default_factory=dict)
    strict: bool = False
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    pass_through: Sequence[str] = ()
    common: bool = False
    key: str | None = None
    only_part: str | None = None
    drop_rest: bool = False
    dequantize: bool = False
    renames: Sequence[Rename] = ()
    ignore_classes: bool = False
    out: Path | None = None
    out_folder: bool = False
    format: str | None = None
    dtype: str = "keep"
    force: bool = False
    no_clobber: bool = False
    in_place: bool = False
    device: str = "auto"
    jobs: int = 0
    max_memory: int | None = None
    seed: int = 0
    search: Searching = field(default_factory=Searching)
    running: Running = field(default_factory=Running)
    activations: Activations = field(default_factory=Activations)
    learning: Learning = field(default_factory=Learning)
    card: str | None = None
    figures: bool = False
    margins: bool = False
    check: bool | None = None
    warn: Warn = field(default=unheard, compare=False, repr=False)

    @property
    def part(self) -> str | None:
        """The part of a nested file that holds the weights, if it was named."""
        return self.key if self.only_part is None else self.only_part

    def spec_first(self) -> Options:
        """Return what says how to align in a command that runs the model: --spec, else --model."""
        if self.spec is None:
            return self
        return replace(self, tracing=replace(self.tracing, target=None))

    def reading(self, model: int) -> Reading:
        """Return how the model with a number, from 1, is read."""
        renames = tuple((r.old, r.new) for r in self.renames if r.model in (None, model))
        return Reading(self.part, renames, self.ignore_classes, self.dequantize)

    def selects(self, name: str) -> bool:
        """Return whether --only and --skip leave a tensor in the work."""
        if any(fnmatchcase(name, glob) for glob in self.skip):
            return False
        return not self.only or any(fnmatchcase(name, glob) for glob in self.only)

    def passing(self, globs: Sequence[str]) -> Options:
        """Return the options with more tensors that a spec need not name."""
        return replace(self, pass_through=(*self.pass_through, *globs))

    def passes(self, name: str) -> bool:
        """Return whether a tensor that no spec names is said to hold no units."""
        return any(fnmatchcase(name, glob) for glob in self.pass_through)

    def excuses(self, name: str) -> bool:
        """Return whether a spec need not name a tensor."""
        return self.passes(name) or not self.selects(name) or is_extra_state(name)
