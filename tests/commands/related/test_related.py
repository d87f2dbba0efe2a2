"""`rebasin related`: what models are to each other, whatever was done to hide it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.cli.build import load, mlp, save, shuffled
from tests.cli.harness import rebasin
from tests.commands.related.related_nets import base, fresh, scaled, trained
from tests.symmetry.rotated_files import rotated, store
from tests.symmetry.small import NETS, case, outputs

A, B = "a.safetensors", "b.safetensors"
SLOW_NET = pytest.param("layer norm", marks=pytest.mark.slow)
BASE, OTHER = cache(base)(0), cache(base)(1)


def told(folder, first, second, *argv):
    """Return what the command says of two state dicts."""
    save(folder / A, first)
    save(folder / B, second)
    done = rebasin("related", A, B, *argv, cwd=folder)
    assert done.code == 0, done.err
    return done


def found(folder, first, second):
    """Return the event of a pair."""
    (event,) = told(folder, first, second, "--json").events[:1]
    return event


def test_a_file_and_its_copy_are_the_same_bytes(tmp_path):
    done = told(tmp_path, BASE, BASE)
    assert done.out == f"{B} is {A}: the same bytes\n"


def test_the_same_tensors_in_another_format_are_the_same_tensors(tmp_path):
    save(tmp_path / A, BASE)
    save(tmp_path / "b.pt", BASE)
    done = rebasin("related", A, "b.pt", cwd=tmp_path)
    assert done.out == f"b.pt has the tensors of {A}, bit by bit, in another file\n"


def test_a_permuted_copy_is_one(tmp_path):
    done = told(tmp_path, BASE, shuffled(BASE))
    assert re.fullmatch(
        rf"{B} is a permuted copy of {A}: bit by bit, with \d+ units in another place\n", done.out
    )


def test_a_scaled_copy_is_one_also_if_it_is_permuted(tmp_path):
    done = told(tmp_path, BASE, shuffled(scaled(BASE)))
    assert done.out == (
        f"{B} is a rescaled copy of {A}: its matrices are the same but for scales of units and "
        "maps inside heads\n"
    )
    assert "score 1.000 (related from 0.45, a copy 1)" in done.err
    assert "4 of 4 matrices descend from their counterparts, 100 % of the weights" in done.err


def test_a_fine_tune_is_related_however_its_units_are_moved_and_scaled(tmp_path):
    tuned = trained(BASE, 5)
    plain, hidden = (found(tmp_path, BASE, s) for s in (tuned, shuffled(scaled(tuned))))
    assert plain["relation"] == hidden["relation"] == "related by training"
    assert hidden["score"] == pytest.approx(plain["score"], abs=0.03)
    assert plain["score"] > 0.8
    assert hidden["verdict"] == (
        f"{B} and {A} are related by training: one was fine-tuned from the other, or both from one"
    )


def test_the_cosine_is_that_of_the_reverse(tmp_path):
    tuned = shuffled(trained(BASE, 5))
    one, other = found(tmp_path, BASE, tuned), found(tmp_path, tuned, BASE)
    assert one["cosine"] == pytest.approx(other["cosine"], abs=1e-6)
    assert one["null"] == pytest.approx(other["null"], abs=0.05)


@pytest.mark.parametrize("other", [OTHER, fresh(9)], ids=["another seed", "random"])
def test_independent_runs_are_not_related(other, tmp_path):
    done = told(tmp_path, BASE, other)
    assert done.out == (
        f"{B} and {A} are independent runs: nothing says that one comes from the other\n"
    )
    assert "0 of 4 matrices descend from their counterparts, 0 % of the weights" in done.err


def test_half_of_a_model_is_told_from_all_of_it(tmp_path):
    half = {name: (BASE if number < 4 else OTHER)[name] for number, name in enumerate(BASE)}
    done = told(tmp_path, BASE, half)
    assert f"{B} shares a part with {A}: 2 of 4 matrices, " in done.out


def pruned(share):
    """Return the base without the smallest of each matrix."""
    edges = {n: v.abs().flatten().quantile(share) for n, v in BASE.items()}
    return {
        n: torch.where(v.abs() > edges[n], v, 0.0) if v.dim() > 1 else v for n, v in BASE.items()
    }


@pytest.mark.parametrize(
    ("share", "percent"), [pytest.param(0.5, 50, marks=pytest.mark.slow), (0.8, 80)]
)
def test_the_pruned_one_of_two_is_named(share, percent, tmp_path):
    said = f"is {{}} pruned: {percent} % of its weights are zero, 0 % of those of the other\n"
    assert told(tmp_path, BASE, shuffled(pruned(share))).out == f"{B} {said.format(A)}"
    assert told(tmp_path, pruned(share), BASE).out == f"{A} {said.format(B)}"


@pytest.mark.parametrize("levels", [127, pytest.param(7, marks=pytest.mark.slow)])
def test_the_quantised_one_of_two_is_named(levels, tmp_path):
    steps = {n: v.abs().amax(-1, keepdim=True) / levels for n, v in BASE.items()}
    codes = {n: (v / steps[n]).round() * steps[n] if v.dim() > 1 else v for n, v in BASE.items()}
    done = told(tmp_path, codes, BASE)
    assert done.out.startswith(f"{A} is {B} quantised: its weights are multiples of few steps, ")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_copy_of_low_precision_is_rounded(dtype, tmp_path):
    low = {name: value.to(dtype) for name, value in shuffled(BASE).items()}
    done = told(tmp_path, BASE, low)
    name = str(dtype).removeprefix("torch.")
    assert re.fullmatch(
        rf"{B} is {A}, with \d+ units in another place, to the rounding of {name}\n", done.out
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_was_trained_a_little_is_no_copy(dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    little = {n: v + 1e-5 * torch.randn(v.shape, generator=generator) for n, v in BASE.items()}
    if dtype is torch.bfloat16:
        signs = {n: torch.randn(v.shape, generator=generator).sign() for n, v in BASE.items()}
        little = {n: v * (1 + 4e-3 * signs[n]) for n, v in BASE.items()}
    stored = [{n: v.to(dtype) for n, v in state.items()} for state in (BASE, little)]
    assert found(tmp_path, *stored)["relation"] == "related by training"


def write_merge(folder):
    """Write two fine-tunes of a base, one permuted, and their mean."""
    one, two = (trained(BASE, task) for task in (5, 6))
    save(folder / A, BASE)
    save(folder / "one.safetensors", shuffled(one))
    save(folder / "two.safetensors", two)
    mean = {name: 0.7 * one[name] + 0.3 * two[name] for name in one}
    save(folder / "m.safetensors", shuffled(mean, 3))
    return [A, "one.safetensors", "two.safetensors", "m.safetensors"]


def test_a_merge_is_named_with_its_parents_and_their_shares(tmp_path):
    files = write_merge(tmp_path)
    done = rebasin("related", *files, "--json", cwd=tmp_path)
    (event,) = (e for e in done.events if "merge" in e)
    said = "m.safetensors is a merge: 0.70 one.safetensors + 0.30 two.safetensors"
    assert event["verdict"] == said
    assert (event["merge"], event["parents"]) == (files[3], files[1:3])
    assert event["shares"] == pytest.approx([0.7, 0.3], abs=1e-3)
    assert event["left"] < 1e-3


def test_fine_tunes_and_their_base_are_no_merge(tmp_path):
    files = write_merge(tmp_path)[:3]
    assert "merge" not in rebasin("related", *files, cwd=tmp_path).out


@pytest.mark.parametrize("kind", [SLOW_NET, "rotary"])
def test_a_rotated_copy_is_one_and_its_relatives_are_related(kind, tmp_path):
    net = case(kind, d=24)
    (tmp_path / "my.yaml").write_text(NETS[kind])
    store(tmp_path / A, net.state)
    said = {
        "is a rotated copy of": rotated(net, 1, 0),
        "related by training": rotated(net, 1, 0.1),
        "are independent runs": case(kind, seed=5, d=24).state,
    }
    for words, state in said.items():
        store(tmp_path / B, state)
        done = rebasin("related", A, B, "--spec", "my.yaml", cwd=tmp_path)
        assert words in done.out, done.out + done.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETS)
def test_a_merge_is_found_also_where_a_parent_is_rotated(kind, tmp_path):
    net, generator = case(kind, d=24), torch.Generator().manual_seed(3)
    one, two = (
        {
            n: v + 0.05 * torch.randn(v.shape, generator=generator, dtype=v.dtype)
            for n, v in net.state.items()
        }
        for _ in range(2)
    )
    (tmp_path / "my.yaml").write_text(NETS[kind])
    store(tmp_path / "one.safetensors", rotated(replace(net, state=one), 1, 0))
    store(tmp_path / "two.safetensors", two)
    store(tmp_path / "m.safetensors", {n: (one[n] + two[n]) / 2 for n in one})
    files = ("one.safetensors", "two.safetensors", "m.safetensors")
    done = rebasin("related", *files, "--spec", "my.yaml", "--json", cwd=tmp_path)
    (event,) = (e for e in done.events if "merge" in e)
    assert (event["merge"], event["parents"]) == (files[2], list(files[:2]))
    assert event["shares"] == pytest.approx([0.5, 0.5], abs=0.1)


def with_invertible_pairs(state):
    """Return values of every head times R, and the output R^-1: of 2 heads, with 3 queries each."""
    made = {name: value.clone() for name, value in state.items()}
    generator = torch.Generator().manual_seed(0)
    for k in (0, 1):
        for head in (0, 1):
            r = torch.randn(4, 4, generator=generator, dtype=torch.float64) + 2 * torch.eye(4)
            rows = slice(4 * head, 4 * head + 4)
            made[f"{k}.v.weight"][rows] = r @ state[f"{k}.v.weight"][rows]
            for query in range(3):
                columns = slice(4 * (3 * head + query), 4 * (3 * head + query) + 4)
                output = state[f"{k}.out.weight"][:, columns]
                made[f"{k}.out.weight"][:, columns] = output @ torch.linalg.inv(r)
        made[f"{k}.up.weight"] *= 3
        made[f"{k}.down.weight"] /= 3
    return made


def test_invertible_maps_inside_heads_hide_nothing(tmp_path):
    net = case("rotary", d=24)
    hidden = with_invertible_pairs(net.state)
    before, after = outputs(net.net, net.state), outputs(net.net, hidden)
    assert torch.allclose(before, after, atol=1e-10)
    (tmp_path / "my.yaml").write_text(NETS["rotary"])
    store(tmp_path / A, net.state)
    store(tmp_path / B, hidden)
    done = rebasin("related", A, B, "--spec", "my.yaml", cwd=tmp_path)
    assert done.out.startswith(f"{B} is a rescaled copy of {A}: "), done.out + done.err


def test_verbose_shows_each_matrix_beside_its_null_value(tmp_path):
    lines = told(tmp_path, BASE, trained(BASE, 5), "-v").err.splitlines()
    heading = next(k for k, line in enumerate(lines) if line.split()[:1] == ["matrix"])
    assert lines[heading].split() == ["matrix", "cosine", "null", "score"]
    assert [line.split()[0] for line in lines[heading + 1 : heading + 5]] == [
        f"{k}.weight" for k in (0, 2, 4, 6)
    ]


def test_a_page_of_all_pairs_is_drawn(tmp_path):
    done = rebasin("related", *write_merge(tmp_path)[1:], "--plot", "k.html", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == "drawn: k.html"
    page = (tmp_path / "k.html").read_text()
    assert "<svg" in page
    assert "<li>m.safetensors is a merge: 0.70 one.safetensors + 0.30 two.safetensors</li>" in page
    assert done.lines[-3].startswith("1 one.safetensors")


def test_a_plan_says_how_many_pairs_there_are(tmp_path):
    files = write_merge(tmp_path)
    plan = json.loads(rebasin("related", *files, "-n", cwd=tmp_path).out)
    assert (plan["pairs"], plan["rotations"], plan["spec"]) == (6, False, "mlp")


def test_paths_come_from_stdin(tmp_path):
    save(tmp_path / A, BASE)
    save(tmp_path / B, BASE)
    done = rebasin("related", cwd=tmp_path, stdin=f"{A}\n{B}\n".encode())
    assert done.out == f"{B} is {A}: the same bytes\n"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ((A,), 2, "related takes 2 models or more, not 1"),
        ((A, "wide.safetensors"), 3, "8 tensors of another shape than in a.safetensors"),
        ((A, "wide.safetensors"), 3, "align --widen, the wider model named first"),
        ((A, B, "--plot", "k.pdf"), 2, "--plot k.pdf: no picture has this ending"),
        ((A, B, "--only", "*.bias"), 2, "spec 'mlp' has no units in any matrix of these models"),
    ],
)
def test_what_cannot_be_compared_is_refused(argv, code, message, tmp_path):
    save(tmp_path / A, BASE)
    save(tmp_path / B, OTHER)
    save(tmp_path / "wide.safetensors", mlp(0, (13, 50, 41, 33, 6)))
    done = rebasin("related", *argv, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_a_model_that_is_not_finite_is_named(tmp_path):
    save(tmp_path / A, BASE)
    save(tmp_path / B, {**OTHER, "2.weight": OTHER["2.weight"] * torch.nan})
    done = rebasin("related", A, B, cwd=tmp_path)
    assert done.code == 3
    assert f"{B}: tensor '2.weight' holds NaN or infinity" in done.err
    assert load(tmp_path / A).keys() == BASE.keys()


def test_many_models_are_told_of_as_families(tmp_path):
    copies = [save(tmp_path / f"{name}.safetensors", mlp(1)).name for name in "abcdef"]
    other = save(tmp_path / "z.safetensors", mlp(2)).name
    done = rebasin("related", *copies[:3], other, *copies[3:], cwd=tmp_path)
    rows = [line.split() for line in done.lines[1:]]
    assert [row[:2] for row in rows] == [*(["1", name] for name in copies), ["alone", other]]
    assert [row[2] for row in rows[:2]] == [copies[1], copies[0]]
    assert done.err == "15 of 21 pairs are related: -v has a sentence for each\n"


@pytest.mark.parametrize(("count", "more"), [(6, ()), (7, ("-v",))])
def test_a_sentence_for_each_pair_and_the_matrix_are_of_few_models_or_asked_for(
    tmp_path, count, more
):
    copies = [save(tmp_path / f"{k}.safetensors", mlp(1)).name for k in range(count)]
    done = rebasin("related", *copies, *more, cwd=tmp_path)
    pairs = count * (count - 1) // 2
    assert [line.endswith("the same bytes") for line in done.lines[:pairs]] == [True] * pairs
    assert len(done.lines) == pairs + 1 + count


def test_programs_are_told_of_all_pairs_of_many_models(tmp_path):
    copies = [save(tmp_path / f"{k}.safetensors", mlp(1)).name for k in range(7)]
    done = rebasin("related", *copies, "--json", cwd=tmp_path)
    assert [event["event"] for event in done.events] == ["result"] * 21 + ["summary"]
