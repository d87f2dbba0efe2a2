"""Whether a spec is valid and fits, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.spec.check.plan import Checked, GroupSeen
from rebasin_cli.presentation.events import error_fields
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import AND_SO_ON, count, list_names

_SHOWN = 4  # tensors named in a line


def group_line(group: GroupSeen) -> str:
    """Return a group, its size and the tensors it occurs in."""
    per = f" per {group.parents[-1]}" if group.parents else ""
    per += " fixed" if group.fixed else ""
    return f"{group.name}\t{group.size}{per}\t{list_names(group.tensors, _SHOWN, rest=AND_SO_ON)}"


def checked_text(outcome: Checked) -> str:
    """Return whether a spec is valid and fits, or all that is wrong with it."""
    if outcome.error:
        return "\n".join(f"error: {problem}" for problem in outcome.error.problems)
    if outcome.model is None:
        return f"{outcome.spec} is a valid spec; name a MODEL to check it against"
    fixed = sum(group.fixed for group in outcome.groups)
    groups = count(len(outcome.groups), "group") + (f", {fixed} of them fixed" if fixed else "")
    lines = [f"{outcome.spec} fits {outcome.model}: {groups}"]
    if fixed == len(outcome.groups):
        lines.append(
            "  nothing may change places: name groups in place of ~ (see rebasin spec show mlp)"
        )
    if outcome.untouched:
        shown = list_names(outcome.untouched, _SHOWN, rest=AND_SO_ON)
        lines.append(f"  {count(len(outcome.untouched), 'tensor')} not mentioned: {shown}")
    return "\n".join(lines)


def _checked_fields(outcome: Checked) -> dict[str, Any]:
    return {
        "spec": outcome.spec,
        "model": str(outcome.model) if outcome.model else None,
        "valid": outcome.error is None,
        "groups": [
            {
                "name": g.name,
                "size": g.size,
                "per": list(g.parents),
                "fixed": g.fixed,
                "tensors": list(g.tensors),
            }
            for g in outcome.groups
        ],
        "untouched": list(outcome.untouched),
        **(error_fields(outcome.error) if outcome.error else {}),
    }


PRESENTERS: Presenters = {
    Checked: Presenter(
        fields=_checked_fields,
        text=lambda outcome: "\n".join(map(group_line, outcome.groups)),
        summary=checked_text,
        code=lambda outcome: int(outcome.error is not None),
    )
}
