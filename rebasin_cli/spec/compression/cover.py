"""The fewest templates, and exceptions to them, that say what a family of names stands for.

A family are the names that differ in their indices only. A template leaves some of these free; the
names that it gets wrong lie in smaller families, where one more index is written out, and are
covered there. A rule that matches a name of another is therefore always more specific.

Fewest by a length: the characters of the text and something for each line, as in a shortest
description. A box B is the names that agree in the indices written out so far; cost(B, X) is that
of rules that are right for its names X, where what has been written already is wrong for them:

    cost(B, X)  = min(split(B, X), min over templates T of B of cost(T) + split(B, X_T))
    split(B, X) = min over indices s of the sum over values v of cost(B with s = v, X with s = v)

with X_T the names that T is wrong for; a box without a free index is one name, a line of its own.
Costs are kept, since a box is reached by writing out its indices in any order. Exact but for three
limits, which keep it quick: the forms that are tried, the indices that are written out, and terms
that are voted for one by one. Ours.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rebasin_cli.spec.compression.forms import MARK, Form, prefixes_of
from rebasin_cli.spec.compression.items import ATTACHED, VARIABLES, Item

_RULE = 12  # characters that a line is worth, whatever stands in it
_SINGLE = 6  # more for a line about one name: it says nothing about deeper models
_FORMS = 3  # that are tried in one family, the most frequent ones
_SPLITS = 4  # free indices, of which each is tried; more of them take too long
# The order of preference among what fits equally many names, the best one lowest.
_STEPS = {"": 1, ".prev": 3, ".next": 5, ".prev.prev": 6, ".next.next": 7}
_NUMBER = 4  # most often, an index whose number two of three layers read is that of a chain
_END_STEPS = ("", ".prev", ".prev.prev")


class NameRule(NamedTuple):
    """A pattern for names: pieces with marks such as `{i}`, `{last}` or `3` between them.

    texts: what stands for the marks of the form. position: of the first name that it matches.
    free: how many variables it has. single: it is one name.
    """

    pieces: tuple[str, ...]
    marks: tuple[str, ...]
    form: Form
    texts: tuple[str, ...]
    position: int
    free: int
    single: bool

    @property
    def pattern(self) -> str:
        pairs = zip(self.pieces, (*self.marks, ""), strict=True)
        return "".join(piece + mark for piece, mark in pairs)


class _Cover(NamedTuple):
    """Rules, and how long their text is."""

    cost: int
    rules: tuple[NameRule, ...]


class _RuleTerm(NamedTuple):
    """What can stand for an index of a group: a step from the index of a slot, or a number.

    `{i.prev}` is slot i with the step `.prev`; slot None is the number itself.
    """

    slot: int | None
    step: str
    number: int = 0


Box = tuple[int, ...]  # the numbers of items


def cover(items: Sequence[Item]) -> tuple[NameRule, ...]:
    """Return rules under which each item of a family has its form and slots.

    The most specific rule that matches an item is right for it. No rule matches an item without
    a form: such a name had no entry, and a template would give it one.
    """
    needed = tuple(k for k, item in enumerate(items) if item.form is not None)
    return _CoverSearch(items).cover(tuple(range(len(items))), None, needed).rules


def explicit(items: Sequence[Item]) -> tuple[NameRule, ...]:
    """Return a rule of its own for each item that has a form."""
    search = _CoverSearch(items)
    return tuple(search.rule((k,), (), None) for k, item in enumerate(items) if item.form)


class _CoverSearch:
    """The cheapest cover, over all ways to free indices and to write them out again."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._known: dict[tuple[Box, int | None, Box], _Cover] = {}
        self._steps: dict[int, Mapping[int, Sequence[_RuleTerm]]] = {}
        pieces = items[0].pieces
        self._least = [self._fewest(slot) for slot in range(len(pieces) - 1)]
        self._prefixes = prefixes_of(pieces)
        taken = {text for piece in pieces for text in re.findall(r"\[(\w+)\]", piece)}
        self._letters = [letter for letter in VARIABLES if letter not in taken]

    def _fewest(self, slot: int) -> int:
        """Return how many values an index has at least.

        `layers.3` is one whatever there is; `layer3.0.conv.weight` if there are three; fc1, fc2,
        fc3 only if a template holds for all three: they may be different things.
        """
        pieces = self._items[0].pieces
        if not pieces[slot] or pieces[slot][-1] == ".":
            return 2
        inside = sum(piece.count(".") for piece in pieces[slot + 1 :])
        some = max(item.count[slot] for item in self._items) >= ATTACHED
        return 2 if some and inside > 1 else ATTACHED

    def cover(self, box: Box, end: int | None, wrong: Box) -> _Cover:
        """Return rules for the wrong ones of a box; end: the index that is `{last}` in it.

        wrong: those for which no rule so far is right. The others of the box are matched by its
        templates all the same, and may end up right under them, or as exceptions once more.
        """
        if not wrong:
            return _Cover(0, ())
        key = (box, end, wrong)
        if key not in self._known:
            free = self._free(box, end)
            options = self._options(box, free, end, wrong) if free else [self._one(box, end)]
            self._known[key] = min(options, key=lambda found: found.cost)
        return self._known[key]

    def _free(self, box: Box, end: int | None) -> tuple[int, ...]:
        return tuple(
            slot
            for slot in range(len(self._prefixes))
            if slot != end and len({self._items[k].values[slot] for k in box}) > 1
        )

    def _one(self, box: Box, end: int | None) -> _Cover:
        rule = self.rule(box, (), end)
        return _Cover(self._cost(rule), (rule,))

    def _options(
        self, box: Box, free: tuple[int, ...], end: int | None, wrong: Box
    ) -> list[_Cover]:
        slots = self._slots(box, free)
        found = []
        for rule, followers in self._templates(box, free, end):
            # A template speaks for the whole box, so what it leaves is all that it is wrong for,
            # not just what was wrong before. One that is right for all cannot be improved on.
            follow = frozenset(followers)
            left = tuple(k for k in box if k not in follow)
            if not left:
                return [_Cover(self._cost(rule), (rule,))]
            rests = [self._split(box, slot, end, left, ends=True) for slot in slots]
            rest = min(rests, key=lambda cover: cover.cost)
            found.append(_Cover(self._cost(rule) + rest.cost, (rule, *rest.rules)))
        return found + [self._split(box, slot, end, wrong, ends=False) for slot in slots]

    def _slots(self, box: Box, free: tuple[int, ...]) -> tuple[int, ...]:
        """Return the indices to try next to write out: one that no template can free, if any."""
        for slot in free:
            if len({self._items[k].values[slot] for k in box}) < self._least[slot]:
                return (slot,)
        return free[-_SPLITS:]

    def _split(self, box: Box, slot: int, end: int | None, wrong: Box, *, ends: bool) -> _Cover:
        """Cover the wrong items by patterns with one index written out, as `{last}` if allowed."""
        items = self._items
        # `{last}` stands for exceptions to a template alone, and for one index of a name at most.
        at_last = {k for k in box if items[k].last[slot]} if ends and end is None else set()
        numbers = {items[k].values[slot] for k in wrong if k not in at_last}
        # Where a number is the last of one place and not of another, the pattern with the number
        # matches at both, and is more specific than the one with `{last}`.
        if any(items[k].values[slot] in numbers for k in at_last):
            at_last, numbers = set(), {items[k].values[slot] for k in wrong}
        covers = []
        if not at_last.isdisjoint(wrong):
            inside = tuple(k for k in box if k in at_last)
            covers.append(self.cover(inside, slot, tuple(k for k in wrong if k in at_last)))
        for number in sorted(numbers):
            inside = tuple(k for k in box if items[k].values[slot] == number)
            left = tuple(k for k in wrong if items[k].values[slot] == number)
            covers.append(self.cover(inside, end, left))
        return _Cover(sum(c.cost for c in covers), tuple(r for c in covers for r in c.rules))

    def _templates(
        self, box: Box, free: tuple[int, ...], end: int | None
    ) -> Iterator[tuple[NameRule, Box]]:
        """Yield templates for a box, with the items for which each is right."""
        forms = Counter(self._items[k].form for k in box)
        if None in forms or len(free) > len(self._letters):
            return
        for form, count in forms.most_common(_FORMS):
            members = tuple(k for k in box if self._items[k].form is form)
            if count > 1 and form is not None:
                terms, followers = self._fit(form, members, free, end)
                if self._worthwhile(box, followers, free):
                    rule = self.rule(box, free, end, (form, terms))
                    yield rule, followers

    def _fit(
        self, form: Form, members: Box, free: tuple[int, ...], end: int | None
    ) -> tuple[list[_RuleTerm], Box]:
        """Return for each mark of a form the term that most members have, and who has all of them.

        The members vote mark by mark, and only those that agree on the marks before: so that some
        member has all terms that are chosen. Another combination might suit more members.
        """
        chosen: list[_RuleTerm] = []
        for mark, prefix in enumerate(form.prefixes):
            said = {k: self._terms(k, mark, free, end) for k in members}
            votes = Counter(term for terms in said.values() for term in terms)
            if MARK in prefix and chosen[-1].step:  # twice in one name: a coincidence
                del votes[chosen[-1]]
            best = max(votes, key=lambda term: (votes[term], -self._rank(term, prefix)))
            chosen.append(best)
            members = tuple(k for k in members if best in said[k])
        return chosen, members

    def _terms(self, k: int, mark: int, free: tuple[int, ...], end: int | None) -> list[_RuleTerm]:
        """Return what may stand at a mark of an item's form."""
        wanted = self._items[k].slots[mark]
        found = [_RuleTerm(None, "", wanted)]
        for term in self._near(k).get(wanted, ()):
            if term.slot in free or (term.slot == end and term.step in _END_STEPS):
                found.append(term)
        return found

    def _near(self, k: int) -> Mapping[int, Sequence[_RuleTerm]]:
        """Return number -> steps that lead from an index of an item's name to it."""
        if k not in self._steps:
            found: defaultdict[int, list[_RuleTerm]] = defaultdict(list)
            for slot, near in enumerate(self._items[k].near):
                for step, number in near.items():
                    found[number].append(_RuleTerm(slot, step))
            self._steps[k] = found
        return self._steps[k]

    def _rank(self, term: _RuleTerm, prefix: str) -> int:
        """Return the place of a term among those with equally many votes, the best one lowest."""
        if term.slot is None:
            return _NUMBER
        if not term.step:
            return 0 if self._prefixes[term.slot] == prefix else _STEPS[""]
        return _STEPS[term.step]

    def _worthwhile(self, box: Box, followers: Box, free: tuple[int, ...]) -> bool:
        """Return whether a template is right for enough: most of a box, or all but its ends.

        And for enough values of each free index: a template is to say something about deeper
        models. The ends of a chain differ often (one reads the input, one writes the output).
        """
        for slot in free:
            values = {self._items[k].values[slot] for k in followers}
            if len(values) < self._least[slot]:
                return False
        if 2 * len(followers) > len(box):
            return True
        follow = frozenset(followers)
        ends = (self._items[k].end[free[0]] for k in box if k not in follow)
        return len(free) == 1 and all(ends)

    def rule(
        self,
        box: Box,
        free: tuple[int, ...],
        end: int | None,
        said: tuple[Form, list[_RuleTerm]] | None = None,
    ) -> NameRule:
        """Return the rule for a box. said: form and terms, those of its only item if missing."""
        item = self._items[box[0]]
        form, terms = said or self._own(box[0], end)
        letters = dict(zip(free, self._letters, strict=False))
        if end is not None:
            letters[end] = "last"
        marks = tuple(
            f"{{{letters[slot]}}}" if slot in letters else str(value)
            for slot, value in enumerate(item.values)
        )
        texts = tuple(
            str(t.number) if t.slot is None else f"{{{letters[t.slot]}{t.step}}}" for t in terms
        )
        position = min(self._items[k].position for k in box)
        single = not free and end is None
        return NameRule(item.pieces, marks, form, texts, position, len(free), single)

    def _own(self, k: int, end: int | None) -> tuple[Form, list[_RuleTerm]]:
        """Return the form of one name and a term for each mark in it: a number, or `{last}`."""
        form = self._items[k].form
        if form is None:
            raise ValueError("a name without a meaning needs no rule")
        return form, self._fit(form, (k,), (), end)[0]

    def _cost(self, rule: NameRule) -> int:
        """Return the length of a line: the name, its meaning, and what any line costs a reader."""
        names = sum(map(len, rule.pieces)) + sum(map(_weight, rule.marks))
        return (
            _RULE + _SINGLE * rule.single + names + rule.form.length + sum(map(_weight, rule.texts))
        )


def _weight(text: str) -> int:
    """Return what a mark costs: a variable less than a number, so that it is preferred."""
    return len(text) - 2 if text[0] == "{" else len(text) + 1
