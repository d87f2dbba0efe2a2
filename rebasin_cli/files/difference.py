"""How the names of two models differ, told as shortly as can be, and which option would mend it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from rebasin_cli.checkpoint.renamed import is_counter
from rebasin_cli.checkpoint.torch_format.container import is_extra_state
from rebasin_cli.files.other_forms import form_hint
from rebasin_cli.merging.whole_numbers import number_kind
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.wording import and_more, shorten

SHOWN = 5  # names listed for one kind of mismatch; the rest is counted
# Globs in a hint: more of them and it is another model.
_MOST_GLOBS = 6
_TRIED = 400  # pairs of names from which a renaming is read


@dataclass(frozen=True)
class Difference:
    """What two models have apart, under names that were brought together as far as they can be.

    missing, extra: names that the second lacks, or has alone. shapes, kinds: names with two shapes,
    or of two kinds of numbers.
    """

    wanted: Mapping[str, TensorInfo]
    found: Mapping[str, TensorInfo]
    missing: Sequence[str]
    extra: Sequence[str]
    shapes: Sequence[str]
    kinds: Sequence[str]

    @property
    def common(self) -> Set[str]:
        return self.wanted.keys() & self.found.keys()

    @property
    def of_heads(self) -> bool:
        """Whether the models differ only in heads beside, or on top of, a common backbone."""
        apart = len(self.missing) + len(self.extra)
        return 0 < apart <= len(self.common) and all(map(_is_head, skipped_globs(self)))


def difference_of(
    wanted: Mapping[str, TensorInfo],
    found: Mapping[str, TensorInfo],
    selection: Selection,
    *,
    apart: Sequence[str] = (),
) -> Difference:
    """Return the difference of two models in what takes part.

    apart: globs of what need not be in both. Nor need counters, which wrappers add, and what
    modules keep beside their tensors.
    """

    def counts(name: str, info: TensorInfo) -> bool:
        if is_counter(info) or is_extra_state(name):
            return False
        return selection.selects(name) and not any(fnmatchcase(name, glob) for glob in apart)

    both = [n for n, info in wanted.items() if n in found and _is_compared(n, info, selection)]
    return Difference(
        wanted,
        found,
        missing=[n for n, info in wanted.items() if n not in found and counts(n, info)],
        extra=[n for n, info in found.items() if n not in wanted and counts(n, info)],
        shapes=[n for n in both if _unlike(wanted[n], found[n], selection)],
        kinds=[n for n in both if _of_two_kinds(wanted[n], found[n])],
    )


def names_hint(difference: Difference, number: int) -> str:
    """Return what would mend a difference of names of the model with a number."""
    if hint := form_hint(difference.missing, difference.extra):
        return hint
    for pattern, replacement in _renamings(difference):
        return f"--rename '{number}:{pattern}={replacement}' makes the names equal"
    for part, others in _parts(difference):
        skips = "".join(f" --skip '{other}*'" for other in others)
        return f"--rename '{number}:^{re.escape(part)}='{skips} takes the part {part!r} of it"
    globs = skipped_globs(difference)
    apart = len(difference.missing) + len(difference.extra)
    if len(globs) <= _MOST_GLOBS and apart <= len(difference.common):
        skips = " ".join(f"--skip '{glob}'" for glob in globs)
        return f"{skips} leaves them, and the units in them, as they are"
    return (
        f"they are not of one architecture, or --rename '{number}:OLD=NEW' has to say how names "
        "go together"
    )


def skipped_globs(difference: Difference) -> list[str]:
    """Return globs for what one model lacks, each for the largest module without common tensors."""
    common = difference.common
    held = {name[: k + 1] for name in common for k in range(len(name)) if name[k] == "."}
    globs: dict[str, None] = {}
    for name in (*difference.missing, *difference.extra):
        ends = (k + 1 for k, letter in enumerate(name) if letter == ".")
        module = next((name[:end] for end in ends if name[:end] not in held), None)
        globs[_escape_glob(f"{module}") + "*" if module else _escape_glob(name)] = None
    return list(globs)


def _of_two_kinds(ours: TensorInfo, theirs: TensorInfo) -> bool:
    """Return whether one is real, the other complex or whole. Single numbers are counters."""
    return theirs.numel > 1 and number_kind(ours.dtype) != number_kind(theirs.dtype)


def _unlike(ours: TensorInfo, theirs: TensorInfo, selection: Selection) -> bool:
    """Return whether two tensors cannot be compared; a common part needs as many axes."""
    if selection.common:
        return len(ours.shape) != len(theirs.shape)
    return ours.shape != theirs.shape


def _is_compared(name: str, info: TensorInfo, selection: Selection) -> bool:
    return selection.selects(name) and (info.floating or not is_extra_state(name))


def _is_head(glob: str) -> bool:
    """Return whether a glob names a module outside of the numbered layers, at most two deep."""
    return glob.count(".") <= 2 and not re.search(r"[0-9]", glob)


def _escape_glob(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _parts(difference: Difference) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the modules of the second model that are the first, and the modules beside them."""
    found = difference.found
    tops = list(dict.fromkeys(f"{name.partition('.')[0]}." for name in found if "." in name))
    for top in tops[:_MOST_GLOBS]:
        inside = {n.removeprefix(top): info.shape for n, info in found.items() if n.startswith(top)}
        if inside == {name: info.shape for name, info in difference.wanted.items()}:
            yield top, [other for other in tops if other != top]


def _renamings(difference: Difference) -> Iterator[tuple[str, str]]:
    """Yield renamings of modules that make the names equal, read from pairs of names."""
    pairs = (
        (old, new)
        for old in difference.extra
        for new in difference.missing
        if difference.found[old].shape == difference.wanted[new].shape
    )
    tried = list(islice(pairs, _TRIED))
    parts = (_apart(old.split("."), new.split(".")) for old, new in tried)
    texts = [_substitution(a, b, ends) for a, b, ends in parts if a and b]
    texts += [text for old, new in tried for text in _before_numbers(old, new)]
    return (pair for pair in dict.fromkeys(texts) if _makes_equal(*pair, difference))


def _before_numbers(old: str, new: str) -> Iterator[tuple[str, str]]:
    """Yield what turns the text before a number into another: `net.fc0.bias`, `layers.0.bias`."""
    (a, *after), (b, *others) = (
        re.split(r"(?<=[a-z_.])(?=[0-9])", n, maxsplit=1) for n in (old, new)
    )
    if after and after == others:
        yield rf"^{re.escape(a)}(?=[0-9])", b


def _substitution(old: Sequence[str], new: Sequence[str], ends: bool) -> tuple[str, str]:
    """Return what turns a part of names into another one. ends: it is the last part."""
    group = r"\g<1>" if new[0][:1].isdigit() else r"\1"
    dot = "" if ends else "."
    end = "$" if ends else r"\."
    return rf"(^|\.){re.escape('.'.join(old))}{end}", f"{group}{'.'.join(new)}{dot}"


def _apart(old: Sequence[str], new: Sequence[str]) -> tuple[Sequence[str], Sequence[str], bool]:
    """Return the middle parts in which two names differ, and whether nothing follows them."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return old[start : len(old) - end], new[start : len(new) - end], not end


def _makes_equal(pattern: str, replacement: str, difference: Difference) -> bool:
    new = {re.sub(pattern, replacement, name): name for name in difference.found}
    agree = new.keys() == difference.wanted.keys()
    return agree and all(
        difference.found[old].shape == difference.wanted[name].shape for name, old in new.items()
    )


def shape_text(name: str, found: Sequence[int], expected: Sequence[int]) -> str:
    """Return what is wrong with the shape of a tensor."""
    return f"{name} is {list(found)}, expected {list(expected)}"


def label_names(label: str, names: Sequence[str]) -> list[str]:
    """Return a line for each of the first names, and one that counts the rest."""
    return [f"{label}: {name}" for name in shorten(names, SHOWN, and_more)]
