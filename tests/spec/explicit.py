"""Explicit specs for tests: an entry for each tensor, as the tracer derives them."""

from dataclasses import replace

from rebasin_cli.spec.binding.declared import Sizes, declared_groups
from rebasin_cli.spec.binding.entry_match import match_tensors, matching_names
from rebasin_cli.spec.binding.resolve import resolve
from rebasin_cli.spec.language.model import Fixed, Named, Split, entry_names, parts_of, with_parts
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.tensor_names import TensorNames


def explicit(spec, infos, sizes):
    """Return a spec with an entry for each tensor and stack, and numbers for named sizes."""
    names, problems = TensorNames(infos), Problems("s.yaml", "")
    matched = match_tensors(spec, infos, names, problems)
    placements = resolve(spec, matched, names, problems)
    tensors = {}
    for placement, tensor in zip(placements, matched, strict=True):
        parts = tuple(tuple(said(axis, sizes) for axis in part) for part in placement.parts)
        entry = parts[0] if placement.split is None else Split(placement.split, parts)
        before, after, _ = tensor.match.stack or ("", "", 0)
        tensors[f"{before}[e]{after}" if placement.stacked else placement.members[0]] = entry
    groups = dict.fromkeys(name for entry in tensors.values() for name in entry_names(entry))
    declared = declared_groups(spec, groups, problems)
    known = Sizes(spec, sizes, {})
    listed = {
        key: tuple(sorted(matching_names(spec, key, getattr(spec, key), names, problems)))
        for key in ("buffers", "transposed")
    }
    problems.stop()
    return replace(
        spec,
        tensors=tensors,
        groups={
            name: replace(
                spec.groups[declared[name].key],
                size=_known_size(declared[name].size, known, problems),
                per=declared[name].per,
            )
            for name in groups
            if name in declared
        },
        sizes={},
        **listed,
    )


def said(tree, sizes):
    """Return an axis expression as it was written: `~` and numbers are names after `resolve`."""
    if isinstance(tree, Named):
        fixed = tree.name.startswith("~") or tree.name in sizes
        return Fixed(sizes.get(tree.name)) if fixed else tree
    parts = [said(part, sizes) for part in parts_of(tree)]
    return with_parts(tree, parts) if parts else tree


def _known_size(size: int | str | None, known: Sizes, problems: Problems) -> int | None:
    return None if size is None else known.find(size, None, problems)
