"""From a record to a spec: which outputs count, which buffers move, what follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import filter as filter_names
from fnmatch import fnmatchcase

from torch import nn

from rebasin_cli.errors import Problem, UsageError, suggest
from rebasin_cli.tensors import RUNNING_STATISTICS
from rebasin_cli.tracer.axes.analysis import analyse
from rebasin_cli.tracer.derivation.derive import DerivedSpec, derive
from rebasin_cli.tracer.recording.record import Record, Value, live
from rebasin_cli.tracer.rules import apply_rule
from rebasin_cli.wording import listing


@dataclass(frozen=True)
class Choices:
    """What a user may say about a trace.

    outputs: names of the outputs that must stay; by default those that a user looks at.
    free_outputs: units of the outputs may change places, as in a backbone without its head.
    buffers: globs of buffers that move like parameters, such as tables that training changes.
    """

    outputs: tuple[str, ...] = ()
    free_outputs: bool = False
    buffers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Symmetry:
    """A spec derived from a record, not yet proved.

    outputs: the names of those that it keeps. unknown: operators without a rule.
    """

    derived: DerivedSpec
    outputs: tuple[str, ...]
    unknown: tuple[str, ...]
    calls: int


def derive_symmetry(record: Record, model: nn.Module, choices: Choices, name: str) -> Symmetry:
    """Return the symmetry of a recorded model. Raises UsageError for an unknown output."""
    # Only what the chosen outputs depend on is analysed, since calls whose results nobody reads
    # tie axes as others do: the last states of an LSTM, stacked, would make all layers one group.
    chosen = chosen_outputs(record, choices.outputs)
    outputs = [record.outputs[output] for output in chosen]
    calls = live(record, outputs)
    movable = movable_buffers(model, choices.buffers)
    frozen = [] if choices.free_outputs else outputs
    analysis = analyse(record, calls, frozen, apply_rule, movable)
    returned = {output.partition(":")[2]: record.outputs[output] for output in reversed(chosen)}
    derived = derive(analysis, calls, returned, name)
    short = tuple(dict.fromkeys(output.partition(":")[2] for output in chosen))
    return Symmetry(derived, short, tuple(sorted(analysis.unknown)), len(calls))


def chosen_outputs(record: Record, wanted: Sequence[str]) -> list[str]:
    """Return the names of the outputs to keep, those of each recorded call.

    Of outputs that nobody named, those that a user looks at, and what has layers of its own beside
    them: boxes beside classes read the same stream, and their layers have to follow it.
    """
    if not wanted:
        return [*record.chosen, *_with_own_layers(record)]
    known = {name.partition(":")[2] for name in record.outputs}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"the model returns no output {name!r}",
                hint=suggest(name, sorted(known)) or f"it returns {', '.join(sorted(known))}",
            )
    return [name for name in record.outputs if name.partition(":")[2] in wanted]


def _with_own_layers(record: Record) -> list[str]:
    """Return the outputs beside those chosen that read parameters which none before them reads."""
    others = [n for n, v in record.outputs.items() if v.dtype.is_floating_point]
    others = [name for name in others if name not in record.chosen]
    if not others:
        return []
    known = _parameters_read(record, record.chosen)
    if _parameters_read(record, [*record.chosen, *others]) == known:
        return []
    found = []
    for name in others:
        read = _parameters_read(record, [name])
        if not read <= known:
            found.append(name)
            known |= read
    return found


def _parameters_read(record: Record, names: Iterable[str]) -> set[Value]:
    """Return the parameters that some outputs depend on."""
    calls = live(record, [record.outputs[name] for name in names])
    read = {operand.root for call in calls for operand in call.operands}
    return {value for value in read if value.source.startswith("parameter")}


def movable_buffers(model: nn.Module, globs: Sequence[str]) -> frozenset[str]:
    """Return the names of buffers that move like parameters.

    All buffers of norms with running statistics and of parametrizations, what torch.nn.utils keeps
    beside a weight (spectral_norm, prune), and those that a user names. Other buffers are tables
    that the code made, the same in every checkpoint.
    """
    found: set[str] = set()
    for prefix, module in model.named_modules():
        own = {name for name, buffer in module.named_buffers(recurse=False) if buffer is not None}
        whole = {*RUNNING_STATISTICS} <= own or ".parametrizations." in f".{prefix}."
        parameters = {name for name, _ in module.named_parameters(recurse=False)}
        moving = own if whole else {n for n in own if _beside(n) in parameters}
        found.update(f"{prefix}.{name}" if prefix else name for name in moving)
    stored = model.state_dict(keep_vars=True)
    found.update(n for n in stored if any(fnmatchcase(n, glob) for glob in globs))
    return frozenset(found & stored.keys())


def check_globs(model: nn.Module, globs: Sequence[str]) -> None:
    """Raise UsageError for a glob that names no buffer in the files of a model: it moves none."""
    stored = model.state_dict(keep_vars=True)
    buffers = [name for name, _ in model.named_buffers(remove_duplicate=False) if name in stored]
    idle = [glob for glob in globs if not filter_names(buffers, glob)]
    if idle:
        known = f"it has {listing(buffers)}" if buffers else "it stores none"
        raise UsageError(
            *(
                Problem(
                    f"no buffer of the model is called {g!r}", hint=suggest(g, buffers) or known
                )
                for g in idle
            )
        )


def _beside(name: str) -> str | None:
    """Return the name of the weight that a buffer of torch.nn.utils belongs to, if it is one."""
    weight, _, role = name.rpartition("_")
    return f"{weight}_orig" if role in ("u", "v", "mask") else None
