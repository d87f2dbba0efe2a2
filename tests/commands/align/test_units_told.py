"""What `align` and `diff` say of units and of what two models are to each other."""

import pytest

from tests.cli import models
from tests.cli.build import mlp, near, pair, save, shuffled
from tests.cli.harness import rebasin

ALIGN = ("align", "a.safetensors", "b.safetensors")
DIFF = ("diff", "a.safetensors", "b.safetensors", "--spec", "mlp")


def two(folder, a, b):
    save(folder / "a.safetensors", a)
    save(folder / "b.safetensors", b)


def result(done):
    """Return the event about the model that was aligned or compared."""
    return next(event for event in done.events if "relation" in event)


def test_the_event_of_align_has_figures_of_units_and_advice(tmp_path):
    pair(tmp_path)
    event = result(rebasin(*ALIGN, "--json", cwd=tmp_path))
    assert event["relation"] == "permuted"
    assert event["advice"].startswith("the same model or a close relative of it")
    assert 0 < event["chance"] < 1
    assert 0.5 < event["share_moved"] <= 1
    for whole in (event, *event["groups"]):
        assert whole["unit_cosine"]["before"] < 0.9 < whole["unit_cosine"]["after"] < 1
        assert whole["collapse"]["before"] < 0.9 < whole["collapse"]["after"] < 1
    assert [group["units"] for group in event["groups"]] == [8, 11, 9]
    assert {"name", "size", "moved", "cosine", "gain", "fixed"} <= event["groups"][0].keys()


@pytest.mark.parametrize(("flags", "there"), [((), False), (("-v",), True)])
def test_margins_are_worked_out_where_more_is_asked_for(tmp_path, flags, there):
    pair(tmp_path)
    groups = result(rebasin(*ALIGN, "--json", *flags, cwd=tmp_path))["groups"]
    assert all((group["margin"] is not None) == there for group in groups)
    if there:
        assert all(g["margin"]["nearest"] == 1 and g["margin"]["mean"] > 0 for g in groups)


def test_a_person_gets_a_table_and_one_sentence_of_advice(tmp_path):
    pair(tmp_path)
    done = rebasin(*ALIGN, "-v", cwd=tmp_path)
    assert done.lines == ["a.safetensors", "b.aligned.safetensors"]
    heads = ["group", "size", "moved", "cosine", "kept", "margin", "nearest", "gain"]
    table = [line.split() for line in done.err.splitlines()]
    start = table.index(heads)
    assert [row[0] for row in table[start + 1 : start + 5]] == [
        "hidden.0",
        "hidden.2",
        "hidden.4",
        "all",
    ]
    assert table[start + 1][1:3] == ["8", "6/8"]
    assert done.err.count("  advice: the same model or a close relative") == 1
    assert "objective" in done.err


def test_units_are_not_compared_unless_that_is_asked_for(tmp_path):
    pair(tmp_path)
    done = rebasin(*ALIGN, cwd=tmp_path)
    assert "advice" not in done.err
    assert "distance" in done.err


def test_lerp_that_aligns_says_the_same(tmp_path):
    pair(tmp_path)
    argv = ("lerp", "a.safetensors", "b.safetensors", "--align", "--steps", "1", "-v")
    done = rebasin(*argv, cwd=tmp_path)
    assert "  advice: the same model or a close relative" in done.err


KINDS = {
    "equal": (mlp(1), 0),
    "one_basin": (near(mlp(1), 2), 1),
    "reordered": (shuffled(mlp(1)), 1),
    "apart": (mlp(2), 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_diff_under_a_spec_says_what_two_models_are_to_each_other(tmp_path, kind):
    other, code = KINDS[kind]
    two(tmp_path, mlp(1), other)
    done = rebasin(*DIFF, "--json", cwd=tmp_path)
    event = result(done)
    assert (event["relation"], done.code) == (kind, code)
    assert event["spec"] == "mlp"
    assert [group["name"] for group in event["groups"]] == ["hidden.0", "hidden.2", "hidden.4"]
    assert all(group["margin"] is None for group in event["groups"])


def test_diff_under_a_spec_adds_a_table_to_the_results(tmp_path):
    two(tmp_path, mlp(1), shuffled(mlp(1)))
    plain = rebasin("diff", "a.safetensors", "b.safetensors", cwd=tmp_path)
    done = rebasin(*DIFF, "-v", cwd=tmp_path)
    assert done.lines[: len(plain.lines)] == plain.lines
    rest = [line.split() for line in done.lines[len(plain.lines) :]]
    assert ["group", "size", "cosine", "kept", "margin", "nearest"] in rest
    assert done.lines[-2].startswith("spec mlp: objective ")
    assert done.lines[-1] == (
        "advice: they look like the same model, its units permuted: rebasin align brings them back"
    )


def test_figures_of_diff_are_those_of_align_before_and_after(tmp_path):
    pair(tmp_path)
    aligned = result(rebasin(*ALIGN, "--json", cwd=tmp_path))
    for name, when in (("b", "before"), ("b.aligned", "after")):
        argv = ("diff", "a.safetensors", f"{name}.safetensors", "--spec", "mlp", "--json")
        event = result(rebasin(*argv, cwd=tmp_path))
        assert event["objective"] == pytest.approx(aligned["objective"][when])
        assert event["cosine"] == pytest.approx(aligned["cosine"][when])
        for one, other in zip(event["groups"], aligned["groups"], strict=True):
            for field in ("cosine", "unit_cosine", "collapse"):
                assert one[field] == pytest.approx(other[field][when]), field


def test_diff_under_the_spec_of_a_traced_model(tmp_path):
    models.write_net(tmp_path)
    models.planted(tmp_path)
    done = rebasin("diff", "a.safetensors", "b.safetensors", "--model", "net.py:Net", cwd=tmp_path)
    assert done.code == 1
    assert "spec traced from net.py:Net" in done.out
    assert "they look like the same model" in done.out


def test_a_diff_under_a_spec_needs_the_same_tensors(tmp_path):
    other = mlp(1)
    other["6.bias"] = other.pop("0.bias")
    two(tmp_path, mlp(1), other)
    done = rebasin(*DIFF, cwd=tmp_path)
    assert done.code == 3
    assert "its tensors are not those of a.safetensors" in done.err
    assert rebasin("diff", "a.safetensors", "b.safetensors", cwd=tmp_path).code == 1


@pytest.mark.parametrize("flags", [("--set", "heads=2"), ("--strict",)])
def test_a_flag_about_a_spec_that_diff_does_not_have_is_refused(tmp_path, flags):
    pair(tmp_path)
    done = rebasin("diff", "a.safetensors", "b.safetensors", *flags, cwd=tmp_path)
    assert done.code == 2
    assert f"{flags[0]} is about a spec" in done.err
    assert "--spec NAME or --model TARGET" in done.err


def test_the_plan_of_a_diff_names_the_spec_and_its_groups(tmp_path):
    pair(tmp_path)
    (plan,) = rebasin(*DIFF, "-n", "--json", cwd=tmp_path).events
    assert (plan["command"], plan["spec"]) == ("diff", "mlp")
    assert len(plan["groups"]) == 3
