"""Fields of one form are stacked, and a chain is added to from one place of a stack at a time."""

import pytest

from rebasin_cli.matching.relaxation.stacks import SMALL
from tests.matching.polytopes import STRUCTURES, space, stacks, structure, unrelated


def made(name):
    here = space(structure(name), unrelated(name, 1))
    return here, stacks(here)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_field_is_in_one_stack(name):
    here, found = made(name)
    fields = [field for stack in found for field in stack.fields]
    assert sorted(map(id, fields)) == sorted(map(id, here.fields))


@pytest.mark.parametrize("name", STRUCTURES)
def test_at_each_position_chains_are_all_the_same_or_all_different(name):
    for stack in made(name)[1]:
        for position in range(len(stack.chains)):
            chains = {field.chains[position].groups for field in stack.fields}
            assert len(chains) in {1, len(stack.fields)}
            assert len(stack.owners(position)) == len(chains)


@pytest.mark.parametrize(
    ("name", "sizes"),
    # the ends, and the layers between; the stream, what turns back to a layer, up, and down
    [("alike", [1, 1, 4]), ("blocks", [1, 2, 5, 5])],
)
def test_fields_of_one_form_are_in_one_stack(name, sizes):
    assert sorted(len(stack.fields) for stack in made(name)[1]) == sizes


def test_what_is_not_small_is_alone(monkeypatch):
    assert SMALL > 25
    monkeypatch.setattr("rebasin_cli.matching.relaxation.stacks.SMALL", 24)
    assert {len(stack.fields) for stack in made("alike")[1]} == {1}
