"""Names of models in pictures: short, and as different as the models."""

from itertools import combinations, product
from pathlib import Path

import pytest

from rebasin_cli.commands.related.kin import Kin, KinPair
from rebasin_cli.commands.related.kinship_plot import draw_kinship
from rebasin_cli.commands.related.run import Kinship
from rebasin_cli.pictures.model_names import model_names
from tests.commands.barrier.test_pictures import place

LONGEST = 24
SCHEDULE = "of-a-network-with-a-cosine-schedule"


def names(*paths, longest=LONGEST):
    return model_names([Path(path) for path in paths], longest)


def test_short_names_are_those_of_the_files():
    assert names("x/a.pt", "y/b.pt") == ["a.pt", "b.pt"]
    assert names("x/a.pt", "x/a.pt") == ["a.pt", "a.pt"]


def test_folders_tell_files_of_one_name_apart():
    assert names("x/run-1/m.pt", "x/run-2/m.pt", "/y/m.pt") == [
        "run-1/m.pt",
        "run-2/m.pt",
        "y/m.pt",
    ]
    assert names("m.pt", "old/m.pt") == ["m.pt", "old/m.pt"]


@pytest.mark.parametrize(
    "form",
    ["{}-" + SCHEDULE, SCHEDULE + "-{}", f"{{}}-{SCHEDULE}-{{}}.pt", f"{SCHEDULE}/{{}}/m.pt"],
)
def test_of_long_names_what_differs_is_left(form):
    paths = [form.format(*pair) for pair in product((1, 2, 10), repeat=form.count("{}"))]
    found = names(*paths)
    assert len({*found}) == len(paths)
    assert all(len(name) <= LONGEST for name in found)


def test_a_page_of_many_independent_runs_counts_them_in_one_sentence(tmp_path):
    models = tuple(Path(f"run-{n}/model.safetensors") for n in range(6))
    kinds = [Kin.PERMUTED, *[Kin.INDEPENDENT] * 14]
    pairs = map(KinPair, *zip(*combinations(models, 2), strict=True), kinds)
    draw_kinship(Kinship(models, tuple(pairs), ()), place(tmp_path / "kin.html"))
    page = (tmp_path / "kin.html").read_text("utf-8")
    assert page.count("<li>") == 2
    assert "14 pairs of 15 are independent runs" in page
    assert all(page.count(f"<td>run-{n}/model.safetensors</td>") == 5 for n in range(6))
