"""Output heads that are the embedding under another name, and how they are untied from it.

A head E that is tied to the embedding cannot take the gain g of the norm before it: E diag(g) is
not the embedding. A multiple of E may be near enough. If not, the head is untied: it becomes a
tensor of its own, in the checkpoint, in the spec, and in the class of the model that is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from rebasin_cli.alignment.function_check import FunctionCheck
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.models.module_weights import held_infos, held_ties
from rebasin_cli.models.subject import bare_model
from rebasin_cli.network.network import Network, subject_for
from rebasin_cli.spec.binding.bound import BoundNorm, BoundSpec
from rebasin_cli.spec.language.pattern import compile_pattern, match_name
from rebasin_cli.spec.language.tensor_names import TensorNames
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors.blocks import BoundTensor, Window

# Name of an untied head -> the embedding whose values it has. After the head of an embedding come
# other embeddings with its values that are untied with it, see `with_embeddings`.
Heads = Mapping[str, str]


def heads_of(choice: Choice, model: Checkpoint) -> dict[str, str]:
    """Return the names that the tied heads of a spec will have once they are untied.

    A name is that of the reader in the spec, or that of the head in the traced model. Another name
    that the file has for the embedding is not enough: it may be that of a second embedding. Raises
    UsageError if there is no such name.
    """
    found = {}
    for norm in (norm for norm in choice.bound.norms if norm.tied):
        (embedding,) = norm.readers
        name = next(_names(choice, norm, model), None)
        if name is None:
            raise UsageError(
                f"nothing says what an output head apart from {embedding!r} is called",
                where=str(model.path),
                hint=f"`readers:` of {norm.gain!r} under `norms:` of the spec does; or --tie keep",
            )
        found[name] = embedding
    return found


def _names(choice: Choice, norm: BoundNorm, model: Checkpoint) -> Iterator[str]:
    """Yield the names that a tied head may have, those that the file has first."""
    (embedding,) = norm.readers
    readers = list(_readers(choice.bound, norm, TensorNames(dict.fromkeys(model.names()))))
    tied = _also(embedding, model.ties)
    yield from (n for n in tied if any(_pattern_matches(reader, n, model) for reader in readers))
    yield from (one for text in readers if (one := compile_pattern(_first_of(text)).literal))
    if choice.traced is not None and embedding in choice.traced.layout.windows:
        windows = choice.traced.layout.windows
        sources = _head_sources(bare_model(subject_for(choice.traced.tracing)), windows[embedding])
        found = [name for name, window in windows.items() if window.source in sources]
        yield from found if len(found) == 1 else ()


def _pattern_matches(pattern: str, name: str, model: Checkpoint) -> bool:
    names = TensorNames(dict.fromkeys(model.names()))
    return match_name(compile_pattern(pattern), name, names) is not None


def _readers(bound: BoundSpec, norm: BoundNorm, names: TensorNames) -> Iterator[str]:
    """Yield what a spec calls the readers of a norm."""
    for text, told in bound.spec.norms.items():
        if match_name(compile_pattern(text), norm.gain, names):
            yield from told.readers


def _first_of(pattern: str) -> str:
    """Return a pattern with the first of every choice in it.

    >>> _first_of("{embed_out,lm_head}.weight")
    'embed_out.weight'
    """
    before, brace, rest = pattern.partition("{")
    inside, _, after = rest.partition("}")
    if not brace:
        return pattern
    first = inside.partition(",")[0] if "," in inside else f"{{{inside}}}"
    return f"{before}{first}{_first_of(after)}"


def _also(name: str, ties: Mapping[str, str]) -> list[str]:
    """Return the other names of a tensor. ties: alias -> first name."""
    first = ties.get(name, name)
    names = dict.fromkeys((*ties, *ties.values()))
    return [other for other in names if other != name and ties.get(other, other) == first]


def untie_heads(models: Sequence[Checkpoint], heads: Heads) -> list[Checkpoint]:
    """Return models in which the heads are untied; a model that has them already is unchanged."""
    return [_untie_heads_of(model, heads) for model in models]


def _untie_heads_of(model: Checkpoint, heads: Heads) -> Checkpoint:
    held = set(model.names())
    tied = {
        name: first
        for name, first in heads.items()
        if first in held and (name not in held or name in _also(first, model.ties))
    }
    return model.parting(tied) if tied else model


def untied_spec(bound: BoundSpec, heads: Heads) -> BoundSpec:
    """Return a spec in which untied heads are the readers of the norms before them.

    A head gets the axes of its embedding, unless the spec has axes of its own for it.
    """
    by_embedding = {first: name for name, first in reversed([*heads.items()])}
    norms = tuple(
        replace(norm, tied=False, readers=(by_embedding[norm.readers[0]],))
        if norm.tied and norm.readers[0] in by_embedding
        else norm
        for norm in bound.norms
    )
    tensors = tuple(found for each in bound.tensors for found in _with_head(each, bound, heads))
    untouched = tuple(name for name in bound.untouched if name not in heads)
    return replace(bound, norms=norms, tensors=tensors, untouched=untouched)


def _with_head(tensor: BoundTensor, bound: BoundSpec, heads: Heads) -> Iterator[BoundTensor]:
    """Yield a tensor, and after an embedding the head that is untied from it; both vote."""
    first = heads.get(tensor.members[0], tensor.members[0])
    names = [name for name, embedding in heads.items() if embedding == first]
    stored = [t for t in bound.tensors if t.members[0] in (first, *names)]
    votes = tensor.votes or any(each.votes for each in stored)
    yield replace(tensor, votes=votes)
    if tensor.members[0] == first:
        known = {t.members[0] for t in stored}
        new = [name for name in names if name not in known]
        yield from (replace(tensor, members=(name,), votes=votes) for name in new)


def untied_network(network: Network, heads: Heads) -> Network:
    """Return a network whose class ties heads to the embedding, built with the heads untied.

    Raises UsageError for a class without a tensor for the head: it computes with the embedding.
    """
    if not heads:
        return network
    subject, windows = network.subject, dict(network.windows)
    model = bare_model(subject)
    untied = []
    for name, first in heads.items():
        sources = _also(windows[first].source, held_ties(model))
        found = [s for s in sources if name.endswith(s) or s.endswith(name)]
        found = found or _head_sources(model, windows[first])
        if len(found) == 1:
            untied.append(found[0])
            windows[name] = Window.whole(held_infos(model)[found[0]])
        elif found or name not in windows:
            raise UsageError(
                f"{subject.name} has no tensor for {name!r}: "
                f"it computes its outputs from {windows[first].source!r}",
                hint="--tie keep; or a class with a head of its own",
            )
    return Network(replace(subject, build=_build_untied(subject.build, untied)), windows)


def _head_sources(model: nn.Module, embedding: Window) -> list[str]:
    """Return the tensors of a model that are its embedding, and in no module that embeds."""
    found = _also(embedding.source, held_ties(model))
    homes = {name: model.get_submodule(name.rpartition(".")[0]) for name in found}
    return [name for name, home in homes.items() if not isinstance(home, nn.Embedding)]


def _build_untied(build: Callable[[], nn.Module], names: Sequence[str]) -> Callable[[], nn.Module]:
    """Return a builder of a model in which the named parameters share memory with no others."""

    def built() -> nn.Module:
        model = build()
        for home, _, leaf in (name.rpartition(".") for name in names):
            module = model.get_submodule(home)
            old = getattr(module, leaf)
            new = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
            setattr(module, leaf, new)
        return model

    return built


def untied_check(check: FunctionCheck | None, heads: Heads) -> FunctionCheck | None:
    """Return a check that runs a model with untied heads; None if there is no such model."""
    if check is None:
        return None
    try:
        return replace(check, network=untied_network(check.network, heads))
    except UsageError:
        if check.required:
            raise
        return None
