"""A spec against tensors whose names have something around them that the spec does not know.

The names are tried as they are first, then without what wraps all of them. What is bound has the
names of the checkpoint again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.errors import SpecError
from rebasin_cli.files.names.common_names import NameMap, normal_names, uniform_prefixes
from rebasin_cli.files.names.running_averages import AVERAGES, averaged_tensors
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import BoundTensor

# Under such a name the numbers need not be the layers of a chain: heads.0 and heads.1 lie side by
# side. What counts there is the whole name.
_LIST = re.compile(r"(.*s|layer|block|branch|expert|head|stage|.*list)")


@dataclass(frozen=True)
class View:
    """Tensors under other names. names: of the checkpoint -> of the view."""

    names: NameMap
    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]

    def restored(self, bound: BoundSpec) -> BoundSpec:
        """Return what was bound to the view with the names of the checkpoint."""
        back = {new: old for old, new in self.names.items()}

        def old(tensor: BoundTensor) -> BoundTensor:
            return replace(tensor, members=tuple(back.get(name, name) for name in tensor.members))

        return replace(
            bound,
            tensors=tuple(map(old, bound.tensors)),
            untouched=tuple(back[name] for name in bound.untouched),
            buffers=frozenset(back[name] for name in bound.buffers),
        )


def views(
    infos: Mapping[str, TensorInfo], ties: Mapping[str, str], aside: Collection[str]
) -> Iterator[View]:
    """Yield tensors under their own names, then without what is around all of them.

    ties: alias -> first name, of which the tensors need not have both. aside: names of tensors
    that a spec need not name. A running average has the place of the tensor that it is one of, and
    does not vote: to a spec the two are tied.
    """
    averages = averaged_tensors(infos)
    ties, aside = {**averages, **ties}, {*aside, *(n for n in infos if n.startswith(AVERAGES))}
    pairs = [*ties.items(), *((first, alias) for alias, first in ties.items())]
    known = {**infos, **{n: infos[m] for n, m in pairs if n not in infos and m in infos}}
    told: list[NameMap] = []
    for form in _forms({n: info for n, info in known.items() if n not in aside} or known):
        names = {name: form.get(name, name) for name in known}
        if names not in told and len(set(names.values())) == len(names):
            told.append(names)
            yield View(
                names,
                {names[n]: replace(info, name=names[n]) for n, info in infos.items()},
                {names[alias]: names[first] for alias, first in ties.items()},
            )


def bind_seen(
    spec: Spec,
    infos: Mapping[str, TensorInfo],
    *,
    config: Mapping[str, Any],
    sizes: Mapping[str, int],
    ties: Mapping[str, str],
    aside: Collection[str] = (),
) -> BoundSpec:
    """Return a spec bound to tensors, whatever is around all of their names but those aside.

    Raises SpecError with every problem under the names as they are.
    """
    failure: SpecError | None = None
    for view in views(infos, ties, aside):
        try:
            bound = bind(spec, view.infos, config=config, sizes=sizes, ties=view.ties)
        except SpecError as error:
            failure = failure or error
        else:
            return view.restored(bound)
    assert failure is not None
    raise failure


def may_be_chain(view: View) -> bool:
    """Return whether numbers at the start of a view's names may be the layers of a chain."""
    name, seen = next(iter(view.names.items()), ("", ""))
    if name == seen or not seen[:1].isdigit():
        return True
    return not _LIST.fullmatch(name.removesuffix(f".{seen}").rpartition(".")[2])


def _forms(infos: Mapping[str, TensorInfo]) -> Iterator[NameMap]:
    yield {name: name for name in infos}
    for start in uniform_prefixes(infos):
        yield {name: name.removeprefix(start) for name in infos}
    inner = normal_names(infos)
    renamed = {inner[name]: replace(info, name=inner[name]) for name, info in infos.items()}
    for start in ("", *uniform_prefixes(renamed)):
        yield {name: new.removeprefix(start) for name, new in inner.items()}
