"""The text of a bundled spec, written from the traces of its models."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from rebasin_cli.models.transformers.library_names import stored_windows
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.stored_names import stored_spec
from rebasin_cli.spec.compression.compress import compress
from rebasin_cli.spec.language.dump import dump, scalar
from rebasin_cli.spec.language.model import (
    CLASSES,
    PERMUTATION,
    ROTARY,
    AxisExpr,
    Declaration,
    Fixed,
    Named,
    Spec,
    Split,
    leaves,
)
from rebasin_cli.spec.language.model import Entry as Lines
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.language.pattern import compile_pattern, matches
from rebasin_cli.spec.language.tensor_names import TensorNames
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.trace import trace
from tests.library.entry import Entry, Model
from tests.library.single_files.stored import Layout
from tests.library.written_groups import each_factor, group_names, mapped, with_groups
from tests.library.written_norms import joined_norms, spelled_norm
from tests.library.written_signs import permuted_spec, signed_alike

STREAM = r"(?:.*\.)?stream"
ROLES = ((), ("unit",), ("norm", "unit"), ("norm", "pair", "unit"))
FIXED = Declaration(fixed=True)
MISSABLE = r"(?:(?:^|\.)(?:(?:\w+_)?bias|bias_[ih]h_l\w+)|\?)$"  # at the end of a name
WIDTH = 97  # of a comment, without `# `


@dataclass(frozen=True)
class Described:
    """A model's traced spec in the names of files, one entry for each tensor.

    ties: alias -> the name of the same tensor. spec: of permutations alone, with names for signs.
    classes: the same with what may be done to units besides, and names for the units that turn.
    """

    model: Model
    trace: Trace
    spec: Spec
    classes: Spec
    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]

    def bound(self, spec: Spec) -> BoundSpec:
        """Return a spec bound to this model, as its file and its config.json would."""
        known = {name: size for name, size in self.model.sizes.items() if name in spec.sizes}
        config = self.model.config()
        return bind(spec, self.infos, config=config, sizes=known, ties=self.ties)

    @property
    def traced(self) -> BoundSpec:
        """What the tracer says, in the names of files."""
        return bind(self.spec, self.infos, ties=self.ties)


def described(model: Model, *, files: bool) -> Described:
    """Return what tracing says of a model. files: in the names that its library writes."""
    subject = model.subject()
    found = trace(subject, model.choices)
    plain = permuted_spec(found)
    if found.proof is None or not found.proof.holds or found.proof.refuted:
        raise AssertionError(f"{subject.name} was not proved: {found.proof}")
    if model.layout is not None:
        return _laid_out(model, found, model.layout())
    with torch.device("meta"):
        windows = stored_windows(subject.build()) if files else {}
    if not windows:
        return Described(model, found, plain, found.explicit, found.infos, found.ties)
    sizes = {group.name: group.size for group in found.bound.groups.values()}
    place = {name: position for position, name in enumerate(found.infos)}
    infos = {
        name: TensorInfo(name, window.shape, found.infos[window.source].dtype)
        for name, window in sorted(windows.items(), key=lambda row: place[row[1].source])
    }
    spec, classes = (
        stored_spec(said, found.infos, {n: windows[n] for n in infos}, sizes)
        for said in (plain, found.explicit)
    )
    return Described(model, found, spec, classes, infos, {})


def _laid_out(model: Model, found: Trace, layout: Layout) -> Described:
    """Return what tracing says, in the names of files that are not those of the library."""
    plain, classes = (
        layout.spec(with_groups(said, layout.path))
        for said in (permuted_spec(found), found.explicit)
    )
    return Described(model, found, plain, classes, layout.infos(found.infos), {})


def text_of(entry: Entry, rows: Sequence[Described]) -> str:
    """Return the file of a bundled spec; raises AssertionError if its models disagree.

    rows: its variants, described.
    """
    renamed = [replace(_renamed(row, entry), norms=row.classes.norms) for row in rows]
    joined = _joined(signed_alike(renamed), entry)
    infos = {name: info for row in rows for name, info in row.infos.items()}
    for row in rows:
        for name, info in row.infos.items():
            assert infos[name].shape == info.shape, f"{name}: {info.shape}, {infos[name].shape}"
    groups = {e: name for e, name in entry.held.items() if name not in entry.sizes}
    sizes = {e: name for e, name in entry.held.items() if name in entry.sizes}
    held = _held(joined, groups)
    fixed = dict.fromkeys(set(group_names(held)) - set(group_names(joined)), FIXED)
    turning = {name: said for row in rows for name, said in _turning(row, entry).items()}
    fixed |= {name: said for name, said in turning.items() if name in fixed}
    made = replace(held, groups={**held.groups, **fixed}, norms=joined_norms(rows))
    short = _shortened(made, infos)
    return _page(_told(_held(short, sizes), entry), entry)


def variants_of(entry: Entry) -> list[Described]:
    """Return what tracing says of the models that a spec is written from."""
    return [described(model, files=entry.files) for model in entry.variants]


def _new_names(spec: Spec, entry: Entry) -> dict[str, str]:
    """Return a readable name for each group."""
    used = group_names(spec)
    streams = [name for name in used if re.fullmatch(STREAM, name)]
    only = {STREAM: "stream"} if len(streams) == 1 else {}
    placed = _placed(spec, entry)
    new = {name: placed.get(name) or _name(name, {**entry.groups, **only}) for name in used}
    assert len(set(new.values())) == len(new), f"names of groups collide: {sorted(new.values())}"
    return new


def _renamed(row: Described, entry: Entry) -> Spec:
    """Return the spec with readable names of groups, and what may be done to each."""
    spec, classes = row.spec, row.classes.groups
    new = _new_names(spec, entry)
    groups = {}
    for name in new:
        maps = classes[name].maps if name in classes else PERMUTATION
        said = replace(spec.groups.get(name, Declaration()), maps=maps)
        if said != Declaration():
            groups[new[name]] = replace(said, per=new[said.per] if said.per else None)
    tensors = {key: mapped(lines, new) for key, lines in spec.tensors.items()}
    return replace(spec, tensors=tensors, groups=groups)


def _turning(row: Described, entry: Entry) -> dict[str, Declaration]:
    """Return the declarations of held groups whose pairs may turn."""
    new = _new_names(row.spec, entry)
    found = {}
    for key, lines in row.classes.tensors.items():
        for name in group_names(replace(row.classes, tensors={key: lines})):
            said = row.classes.groups.get(name, Declaration())
            for expression, group in entry.held.items():
                match = re.fullmatch(expression, key.removesuffix("?"))
                if match and said.maps.startswith(ROTARY):
                    per = new[said.per] if said.per else None
                    found[match.expand(group)] = Declaration(per=per, maps=said.maps)
    return found


def _placed(spec: Spec, entry: Entry) -> dict[str, str]:
    """Return names for the groups that stand on the first axis of certain tensors."""
    found: dict[str, str] = {}
    for expression, place in entry.places.items():
        for key, lines in spec.tensors.items():
            match = re.fullmatch(expression, key)
            if match and not isinstance(lines, Split):
                factors = [leaf.name for leaf in leaves(lines[0]) if isinstance(leaf, Named)]
                for factor, role in zip(factors, ROLES[len(factors)], strict=True):
                    found.setdefault(factor, f"{role}.{match.expand(place)}")
    return found


def _name(name: str, groups: Mapping[str, str]) -> str:
    for expression, short in groups.items():
        found = re.fullmatch(expression, name)
        if found:
            return found.expand(short)
    return name


def _joined(specs: Sequence[Spec], entry: Entry) -> Spec:
    """Return one spec for all variants; what one of them lacks is optional."""
    plain = [{key.removesuffix("?"): lines for key, lines in s.tensors.items()} for s in specs]
    tensors: dict[str, Lines] = {}
    for name in _merged([list(row) for row in plain]):
        said = [row[name] for row in plain if name in row]
        assert all(lines == said[0] for lines in said), f"{name}: {said}"
        lacking = len(said) < len(specs) and not re.fullmatch(entry.required, name)
        optional = lacking or any(f"{name}?" in s.tensors for s in specs)
        tensors[f"{name}{'?' * optional}"] = said[0]
    groups: dict[str, Declaration] = {}
    for spec in specs:
        for name, declaration in spec.groups.items():
            known = groups.setdefault(name, declaration)
            # What one model allows another may not, by a gain that only it has: which models do
            # is told by their tensors.
            maps = max(known.maps, declaration.maps, key=CLASSES.index)
            groups[name] = replace(known, maps=maps)
            assert replace(declaration, maps=maps) == groups[name], f"{name}: {declaration}"
    return replace(
        specs[0],
        tensors=tensors,
        groups=groups,
        buffers=tuple(dict.fromkeys(n for s in specs for n in s.buffers)),
        transposed=tuple(dict.fromkeys(n for s in specs for n in s.transposed)),
    )


def _merged(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return all names; one that only some rows have stands behind its neighbour there."""
    order = list(rows[0])
    for row in rows[1:]:
        for position, name in enumerate(row):
            if name not in order:
                behind = order.index(row[position - 1]) + 1 if position else 0
                order.insert(behind, name)
    return order


def _shortened(spec: Spec, infos: Mapping[str, TensorInfo]) -> Spec:
    """Return the spec with templates; a pattern is optional if all tensors that it matches are.

    So is every bias: a vector of units that the weight beside it writes.
    """
    plain = {key.removesuffix("?"): lines for key, lines in spec.tensors.items()}
    short = compress(replace(spec, tensors=plain), infos)
    # An axis of names has the index 0, among others.
    required = TensorNames(
        re.sub(r"\[\w+\]", "0", key) for key in spec.tensors if not re.search(MISSABLE, key)
    )

    def needed(pattern: str) -> bool:
        return any(matches(compile_pattern(pattern), required))

    def told(pattern: str) -> str:
        return pattern if needed(pattern) else f"{pattern}?"

    return replace(
        short,
        tensors={told(pattern): lines for pattern, lines in short.tensors.items()},
        buffers=tuple(map(told, short.buffers)),
        transposed=tuple(map(told, short.transposed)),
    )


def _held(spec: Spec, held: Mapping[str, str]) -> Spec:
    """Return the spec with names for the numbers in some tensors."""
    tensors = dict(spec.tensors)
    for key, lines in spec.tensors.items():
        for expression, group in held.items():
            found = re.fullmatch(expression, key.removesuffix("?"))
            if found:
                change = partial(_as_group, found.expand(group))
                tensors[key] = each_factor(lines, change)
    return replace(spec, tensors=tensors)


def _as_group(name: str, leaf: AxisExpr) -> AxisExpr:
    return Named(name) if isinstance(leaf, Fixed) and (leaf.size or 0) > 1 else leaf


def _told(spec: Spec, entry: Entry) -> Spec:
    """Return the spec with named sizes, the spellings of files, and what models lack."""
    groups = {n: replace(d, size=_size(n, entry, d.size)) for n, d in spec.groups.items()}
    for name in filter(str.isalpha, group_names(spec)):
        groups.setdefault(name, Declaration(size=_size(name, entry)))
    said = {name: d for name, d in groups.items() if d != Declaration()}

    def spell(pattern: str) -> str:
        for old, new in entry.spelled.items():
            pattern = re.sub(old, new, pattern)
        return pattern

    return replace(
        spec,
        name=entry.name,
        description=entry.description,
        sizes=entry.sizes,
        groups=said,
        norms={spell(gain): spelled_norm(norm, spell) for gain, norm in spec.norms.items()},
        model_types=entry.model_types if spec.norms else (),
        buffers=tuple(map(spell, spec.buffers)),
        transposed=tuple(map(spell, spec.transposed)),
        tensors={**{spell(k): v for k, v in spec.tensors.items()}, **_extra(entry)},
    )


def _extra(entry: Entry) -> Mapping[str, Lines]:
    lines = [f"  {scalar(name)}: {axes}\n" for name, axes in entry.extra.items()]
    return parse(f"rebasin: 1\ntensors:\n{''.join(lines)}").tensors if lines else {}


def _size(group: str, entry: Entry, traced: int | str | None = None) -> int | str | None:
    for expression, sizes in entry.measured.items():
        if isinstance(traced, int) and re.fullmatch(expression, group):
            return sizes.get(traced, traced)
    found = (size for e, size in entry.counted.items() if re.fullmatch(e, group))
    return next(found, None)


def _page(spec: Spec, entry: Entry) -> str:
    about = "\n".join(_comment(entry.about))
    page = f"{about}\n{_unquoted(dump(spec))}"
    assert parse(page) == spec, page
    return page


def _comment(text: str) -> Iterable[str]:
    return (f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH))


def _unquoted(text: str) -> str:
    """Return a spec's text without the quotes that no reader of specs needs."""
    return re.sub(r'(?<=[\[ ])"([A-Za-z_][\w.\-]*(?:\{[\w.]+\}[\w.\-]*)+)"(?=[,\]}])', r"\1", text)
