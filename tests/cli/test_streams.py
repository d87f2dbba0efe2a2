"""What goes to which stream: results to stdout, talk to stderr, in text and in events."""

import hashlib
import json

import pytest

from tests.cli.build import mlp, near, pair, save, shuffled
from tests.cli.harness import rebasin
from tests.cli.models import planted, write_net

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")
COMMON = {"schema", "event", "command"}
FILE = {"path", "bytes", "sha256"}
MATCHED = {"reference", "spec", "status", "objective", "distance", "seconds", "groups"}


def events(*argv, cwd):
    """Return the events of a command; every line of stdout must be one."""
    done = rebasin(*argv, "--json", cwd=cwd)
    for event in done.events:
        assert event.keys() >= COMMON
        assert event["schema"] == "rebasin/1"
        assert event["command"] == argv[0]
        assert event["event"] in ("result", "warning", "error", "summary")
    return done.events


def test_align_prints_the_reference_and_the_aligned_paths_and_nothing_else(tmp_path):
    pair(tmp_path)
    save(tmp_path / "c.safetensors", shuffled(mlp(1), 7))
    done = rebasin(*ALIGN, "c.safetensors", cwd=tmp_path)
    assert done.out == "a.safetensors\nb.aligned.safetensors\nc.aligned.safetensors\n"
    assert done.code == 0


def test_the_summary_is_on_stderr_with_distance_groups_and_spec(tmp_path):
    pair(tmp_path)
    done = rebasin("align", "a.safetensors", "b.safetensors", cwd=tmp_path)
    assert "b.safetensors aligned to a.safetensors" in done.err
    assert "3 of 3 groups moved" in done.err
    assert "distance" in done.err
    assert "spec mlp" in done.err


def test_verbose_adds_a_row_for_each_group(tmp_path):
    pair(tmp_path)
    done = rebasin(*ALIGN, "-v", cwd=tmp_path)
    rows = [line.split() for line in done.err.splitlines()]
    assert [row[0] for row in rows if row and row[0].startswith("hidden")] == [
        "hidden.0",
        "hidden.2",
        "hidden.4",
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ALIGN,
        ("merge", "a.safetensors", "b.safetensors"),
        ("lerp", "a.safetensors", "b.safetensors", "--steps", "2", "--align"),
        ("diff", "a.safetensors", "b.safetensors"),
        ("verify", "a.safetensors", "b.safetensors"),
        ("inspect", "a.safetensors"),
    ],
    ids=lambda argv: argv[0],
)
def test_quiet_leaves_stderr_empty_and_stdout_as_it_is(tmp_path, argv):
    pair(tmp_path)
    again = ("-f",) if argv[0] in ("align", "merge", "lerp") else ()
    loud = rebasin(*argv, cwd=tmp_path)
    quiet = rebasin(*argv, *again, "-q", cwd=tmp_path)
    assert quiet.err == ""
    assert quiet.out == loud.out != ""
    assert quiet.code == loud.code


def test_quiet_still_tells_errors(tmp_path):
    assert "error: no.pt: no such file" in rebasin("inspect", "no.pt", "-q", cwd=tmp_path).err


def test_quiet_tells_the_errors_of_one_item_among_several(tmp_path):
    pair(tmp_path)
    save(tmp_path / "c.safetensors", {n: t / 0 for n, t in mlp(1).items()})
    assert "c.safetensors" in rebasin(*ALIGN, "c.safetensors", "-q", cwd=tmp_path).err


@pytest.mark.parametrize(
    "argv",
    [(*ALIGN, "-v"), ("inspect", "a.safetensors"), ("align", "--bogus"), ("inspect", "no.pt")],
    ids=["table", "inspect", "usage", "error"],
)
def test_no_terminal_codes_reach_a_pipe(tmp_path, argv):
    pair(tmp_path)
    done = rebasin(*argv, cwd=tmp_path)
    assert "\x1b" not in done.out + done.err


def test_align_tells_programs_all_that_the_contract_lists(tmp_path):
    pair(tmp_path)
    reference, aligned, summary = events(*ALIGN, cwd=tmp_path)
    assert (reference["event"], reference["path"]) == ("result", "a.safetensors")
    assert aligned.keys() >= FILE | MATCHED
    assert aligned["path"] == "b.aligned.safetensors"
    assert aligned["reference"] == "a.safetensors"
    assert aligned["spec"] == "mlp"
    assert aligned["distance"]["after"] < aligned["distance"]["before"] / 5
    assert aligned["objective"]["after"] > aligned["objective"]["before"]
    assert [group["name"] for group in aligned["groups"]] == ["hidden.0", "hidden.2", "hidden.4"]
    for group in aligned["groups"]:
        assert group.keys() >= {"name", "size", "moved", "cosine", "gain"}
        assert group["cosine"].keys() == {"before", "after"}
    assert (summary["event"], summary["results"], summary["failed"]) == ("summary", 2, 0)


def test_the_size_and_digest_of_an_event_are_those_of_the_file(tmp_path):
    pair(tmp_path)
    aligned = events(*ALIGN, cwd=tmp_path)[1]
    data = (tmp_path / aligned["path"]).read_bytes()
    assert aligned["bytes"] == len(data)
    assert aligned["sha256"] == hashlib.sha256(data).hexdigest()


def test_lerp_tells_alpha_and_what_the_command_said(tmp_path):
    pair(tmp_path)
    models = ("a.safetensors", "b.safetensors")
    found = events("lerp", *models, "--at", "0.5", "--exec", "echo 7.5", "--keep", cwd=tmp_path)
    assert found[0].keys() >= FILE | {"alpha", "exec"}
    assert (found[0]["alpha"], found[0]["exec"]) == (0.5, 7.5)
    assert found[-1]["event"] == "summary"


def test_merge_tells_its_models_weights_and_strategy(tmp_path):
    pair(tmp_path)
    merged = events("merge", "a.safetensors", "b.safetensors", "-w", "3,1", cwd=tmp_path)[0]
    assert merged.keys() >= FILE
    assert merged["models"] == ["a.safetensors", "b.safetensors"]
    assert merged["weights"] == [3, 1]
    assert merged["strategy"] == "many"


def test_apply_tells_its_file(tmp_path):
    pair(tmp_path)
    rebasin(*ALIGN, "--save-permutation", "p.safetensors", cwd=tmp_path)
    assert events("apply", "p.safetensors", "b.safetensors", cwd=tmp_path)[0].keys() >= FILE


def test_verify_tells_the_verdict(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    save(tmp_path / "b.pt", shuffled(mlp(1)))
    verdict = events("verify", "a.pt", "b.pt", cwd=tmp_path)[0]
    assert verdict["permutation"] is True
    assert verdict["max_difference"] == 0


def test_an_error_is_an_event_with_code_and_place_and_text_on_stderr_too(tmp_path):
    done = rebasin("inspect", "no.pt", "--json", cwd=tmp_path)
    error = done.events[0]
    assert (error["event"], error["code"], error["where"]) == ("error", 3, "no.pt")
    assert error["command"] == "inspect"
    assert "no such file" in error["message"]
    assert "no such file" in done.err


def test_a_wrong_value_is_an_event_too(tmp_path):
    pair(tmp_path)
    done = rebasin(*ALIGN, "--max-memory", "lots", "--json", cwd=tmp_path)
    assert done.code == 2
    assert done.events[0]["event"] == "error"
    assert done.events[0]["code"] == 2
    assert "'lots'" in done.err


def test_one_bad_model_among_several_is_reported_and_the_others_are_written(tmp_path):
    pair(tmp_path)
    state = mlp(1)
    state["2.bias"][3] = float("nan")
    save(tmp_path / "bad.safetensors", state)
    argv = (*ALIGN[:2], "bad.safetensors", "b.safetensors", "--spec", "mlp", "--json")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 5
    kinds = [event["event"] for event in done.events]
    assert kinds == ["result", "error", "result", "summary"]
    assert (done.events[1]["code"], done.events[1]["item"]) == (3, "bad.safetensors")
    assert (done.events[3]["results"], done.events[3]["failed"]) == (2, 1)
    assert "'2.bias' holds NaN" in done.err
    assert not (tmp_path / "bad.aligned.safetensors").exists()
    assert (tmp_path / "b.aligned.safetensors").exists()


def test_numbers_that_json_lacks_become_null(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    save(tmp_path / "b.pt", {n: t / 0 for n, t in mlp(1).items()})
    done = rebasin("diff", "a.pt", "b.pt", "--json", cwd=tmp_path)
    for line in done.lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert done.code == 1


def test_words_say_that_nothing_was_gained(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    save(tmp_path / "b.pt", near(mlp(1), 2, 0.001))
    done = rebasin("align", "a.pt", "b.pt", cwd=tmp_path)
    assert "nothing was gained" in done.err
    assert "already share a basin" in done.err


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_name_that_is_not_unicode_is_printed_as_it_is(tmp_path, ending):
    pair(tmp_path)
    odd = f"b\udcff.{ending}"
    save(tmp_path / f"b.{ending}", mlp(2)).rename(tmp_path / odd)
    done = rebasin("align", "a.safetensors", odd, "--spec", "mlp", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines[1] == odd.replace(f".{ending}", f".aligned.{ending}")


RUN = "--model net.py:Net --data net.py:data"


@pytest.mark.parametrize(
    ("line", "idle"),
    [
        ("lerp a.safetensors b.safetensors --at 0.5 --keep", "--keep"),
        ("merge a.safetensors b.safetensors --data net.py:data", "--data"),
        ("merge a.safetensors b.safetensors --strategy none --ref b.safetensors", "--ref"),
        (
            "merge a.safetensors b.safetensors --renormalize calibrate --data net.py:data",
            "--data",
        ),
        (
            f"renormalize a.safetensors --parents a.safetensors --no-align --method calibrate"
            f" {RUN}",
            "--data",
        ),
        (
            f"renormalize a.safetensors --parents a.safetensors --no-align --method reset -w 1"
            f" {RUN}",
            "--parents, --weights, --no-align",
        ),
        ('widen a.safetensors --to *=2x --wide-args {"a":1}', "--wide-args"),
        (f"barrier a.safetensors b.safetensors {RUN} --no-align --spec mlp", "--spec"),
        (
            f"transport a.safetensors --from a.safetensors --to b.safetensors {RUN}"
            " --map layerwise --spec mlp --strict",
            "--spec, --strict",
        ),
    ],
    ids=[
        "keep",
        "data",
        "ref",
        "calibrate",
        "by-model",
        "reset",
        "wide-args",
        "no-align",
        "layerwise",
    ],
)
def test_an_option_that_is_of_no_use_here_is_named(tmp_path, line, idle):
    planted(tmp_path)
    write_net(tmp_path)
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n\ndef data():\n    yield small(), torch.tensor([0, 1])\n")
    done = rebasin(*line.split(), "--dry-run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert f"warning: {idle}: of no use, since " in done.err


def test_a_word_that_is_no_option_is_told_under_its_command(tmp_path):
    for words in (("align",), ("spec", "trace")):
        (event,) = rebasin(*words, "x", "--nosuch", "--json", cwd=tmp_path).events
        assert (event["event"], event["command"]) == ("error", " ".join(words))
