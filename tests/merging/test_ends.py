"""The ends of a line are the models: in every tensor, or the command refuses and names some."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.merging.pairs import check_ends, drawn_pair


@settings(max_examples=20, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_alpha_0_is_the_first_model_and_alpha_1_the_second(tmp_path_factory, random):
    check_ends(drawn_pair(random), tmp_path_factory.mktemp("pair"))


def test_most_pairs_are_not_refused(tmp_path):
    random, reasons = Random(0), Counter[str]()
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        reasons.update(check_ends(drawn_pair(random), folder).values())
    assert reasons["equal"] > sum(reasons.values()) / 2, reasons
