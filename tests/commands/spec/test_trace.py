"""`spec trace`: the YAML, what is said of it, its options and its refusals."""

import json
import re

import pytest

from rebasin_cli.spec.language.parse import parse
from tests.cli.harness import Done, fresh, rebasin
from tests.cli.models import planted, write_net


@pytest.fixture
def folder(tmp_path):
    write_net(tmp_path)
    return tmp_path


def trace(folder, *argv, target="net.py:Net") -> Done:
    return rebasin("spec", "trace", target, *argv, cwd=folder, env=cache(folder))


def cache(folder):
    return {"XDG_CACHE_HOME": str(folder / "cache")}


def built(folder):
    """Return how often a Net was built."""
    marks = folder / "built"
    return len(marks.read_text()) if marks.exists() else 0


def test_the_spec_goes_to_stdout_and_is_a_spec(folder):
    done = trace(folder)
    assert done.code == 0
    spec = parse(done.out, source="stdout")
    assert spec.name == "Net"
    assert "net.1.weight: [net.1, net.0]" in done.out


def test_the_comment_says_what_was_traced_and_how_it_was_validated(folder):
    done = trace(folder, "--model-args", '{"hidden": 7}')
    comment = " ".join(line[2:] for line in done.lines if line.startswith("# "))
    assert 'Traced from net.py:Net (arguments {"hidden": 7}) by rebasin' in comment
    assert "Outputs that stay: output." in comment
    assert re.search(r"Validated: .* moves the outputs by \S+ of their scale \(float64", comment)


def test_the_summary_is_talk(folder):
    done = trace(folder)
    said = r"net\.py:Net traced: 2 groups move 98\.91 % of its values, validated on 2 inputs"
    assert re.match(said, done.err)


def test_quiet_says_nothing(folder):
    assert trace(folder, "-q").err == ""


def test_explain_shows_groups_and_reasons_instead_of_the_spec(folder):
    done = trace(folder, "--explain", target="net.py:Lonely")
    assert "rebasin: 1" not in done.out
    group = next(line for line in done.lines if line.startswith("net.0"))
    assert re.match(r"net\.0 +16 +permutation +\d+\.\d\d % +net\.0\.weight, net\.0\.bias", group)
    assert any(
        re.match(r"relu looks at each of its units by itself +2 +net\.0", line)
        for line in done.lines
    )
    assert any(re.match(r"input +1 +net\.0\.weight\[1\]", line) for line in done.lines)
    assert any(re.match(r"spare\.weight +5x5", line) for line in done.lines)


def test_what_no_output_depends_on_is_said(folder):
    done = trace(folder, target="net.py:Lonely")
    assert "2 tensors not exercised, and so fixed: spare.weight, spare.bias" in done.err
    assert "# Not exercised, and so fixed: spare.weight, spare.bias." in done.lines


TABLE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.Linear(6, 2))
        self.register_buffer("table", torch.randn(6))

    def forward(self, x):
        return self[1](self[0](x) * self.table)
"""


def test_buffers_that_hold_units_are_named_with_what_moves_them(folder):
    (folder / "table.py").write_text(TABLE)
    done = trace(folder, target="table.py:Net")
    assert "traced: 0 groups move" in done.err
    assert "keep units in place: table. --permute-buffer GLOB moves them along" in done.err


BRANCHES = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = self.a(x)
        if h.mean() > 0:
            h = 2 * h
        if x.sum().item() > 1e9:
            h = h.flip(-1)
        steps = int((x > 0).sum())
        return self.b(h if steps < 99 and bool((h.new_ones(3) > 0).all()) else -h)
"""


def test_lines_where_numbers_decide_what_runs_are_named(folder):
    (folder / "branches.py").write_text(BRANCHES)
    done = trace(folder, target="branches.py:Net")
    said = "Its numbers may decide what runs (branches.py:11, branches.py:13): what did not run is"
    assert f"  {said} not proved\n" in done.err
    assert said in done.out


def test_json_has_the_fields_of_the_contract(folder):
    result, summary = trace(folder, "--json").events
    assert summary["event"] == "summary"
    assert result["command"] == "spec trace"
    assert result["target"] == "net.py:Net"
    assert [(g["name"], g["size"], g["per"]) for g in result["groups"]] == [
        ("net.0", 16, []),
        ("net.1", 12, []),
    ]
    assert result["groups"][0]["tensors"] == ["net.0.weight", "net.0.bias", "net.1.weight"]
    assert 0.98 < result["share"] < 1
    assert result["validated"] is True
    assert 0 <= result["max_difference"] < 1e-12
    assert parse(result["spec"], source="json").name == "Net"
    assert {"tensor": "net.2.bias", "axis": 0, "size": 4, "reason": "output", "soft": False} in (
        result["fixed"]
    )


def test_out_writes_the_same_text_and_prints_the_path(folder):
    printed = trace(folder).out
    done = trace(folder, "-o", "net.yaml")
    assert done.lines == ["net.yaml"]
    assert (folder / "net.yaml").read_text() == printed


def test_an_existing_file_is_kept_without_force(folder):
    (folder / "net.yaml").write_text("mine")
    done = trace(folder, "-o", "net.yaml")
    assert (done.code, (folder / "net.yaml").read_text()) == (2, "mine")
    assert "net.yaml exists" in done.err
    assert trace(folder, "-o", "net.yaml", "-f").code == 0
    assert parse((folder / "net.yaml").read_text(), source="file").name == "Net"


def test_a_second_input_adds_its_constraints(folder):
    one = trace(folder, "--input", "net.py:small", target="net.py:Two")
    assert "first.{weight,bias}: [first]" in one.out
    both = ("--input", "net.py:small", "--input", "net.py:deep")
    done = trace(folder, *both, target="net.py:Two")
    assert "[first]" not in done.out
    assert "0 groups move 0.00 %" in done.err
    assert "inputs net.py:small, net.py:deep" in done.out


def test_outputs_that_are_not_named_may_change(folder):
    argv = ("--input", "net.py:small", "--outputs", "other")
    done = trace(folder, *argv, target="net.py:Two")
    assert "# Outputs that stay: other." in done.lines
    assert "not exercised, and so fixed: last.weight, last.bias" in done.err
    both = trace(folder, *argv, "--outputs", "logits", target="net.py:Two")
    assert "# Outputs that stay: logits, other." in both.lines
    assert "not exercised" not in both.err


def test_free_outputs_let_the_last_layer_move(folder):
    done = trace(folder, "--free-outputs")
    assert "3 groups move 100.00 %" in done.err
    assert "# Outputs whose units may change places: output." in done.lines


def test_an_unknown_output_is_answered_with_the_known_ones(folder):
    done = trace(folder, "--outputs", "logit", "--input", "net.py:small", target="net.py:Two")
    assert done.code == 2
    assert "the model returns no output 'logit'\nhint: did you mean 'logits'?" in done.err


def test_a_model_that_raises_is_quoted_without_a_traceback(folder):
    done = trace(folder, "--input-shape", "2,3", target="net.py:Broken")
    assert done.code == 2
    assert "net.py:Broken does not run on its input" in done.err
    assert "no such thing as a forward pass" in done.err
    assert "Traceback" not in done.err


def test_an_input_that_does_not_fit_is_said_with_the_way_out(folder):
    done = trace(folder, "--input-shape", "2,5")
    assert done.code == 2
    assert "net.py:Net does not run on its input" in done.err
    assert "hint: --input-shape 1,3,224,224 or --input file.py:function" in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--model-args", "{"), "--model-args '{' is not JSON"),
        (("--model-args", "[1]"), "is not a JSON object"),
        (("--model-args", '{"hiden": 3}'), "net.py:Net does not take hiden"),
        (("--input-shape", "2,x"), "--input-shape '2,x' is not a shape such as 1,3,224,224"),
        (("--input-shape", "0,6"), "--input-shape '0,6' is not a shape"),
        (
            ("--input-shape", "2,6", "--input", "net.py:small"),
            "--input-shape and --input exclude each other",
        ),
        (("--input", "net.py:number"), "net.py:number is not a function"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, argv, said):
    done = trace(folder, *argv)
    assert done.code == 2
    assert said in done.err


def test_a_target_that_is_none_is_answered_with_the_forms(folder):
    done = trace(folder, target="resnet18")
    assert done.code == 2
    assert "'resnet18' names no model" in done.err
    assert "torchvision:NAME" in done.err


def test_an_error_is_an_event_too(folder):
    (event,) = trace(folder, "--json", target="net.py:Nett").events
    assert (event["event"], event["code"]) == ("error", 2)
    assert "did you mean 'Net'?" in event["message"]


def test_a_second_trace_comes_from_the_cache(folder):
    first = trace(folder)
    before = built(folder)
    assert before > 0
    second = trace(folder)
    assert (second.out, built(folder)) == (first.out, before)


def test_a_cached_trace_says_all_that_the_first_said(folder):
    def event():
        found = trace(folder, "--json", target="net.py:Lonely").events[0]
        return {key: value for key, value in found.items() if key != "seconds"}

    assert event() == event()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_cache_can_be_switched_off(folder, how):
    trace(folder)
    before = built(folder)
    env = cache(folder) | ({"REBASIN_NO_CACHE": "1"} if how == "variable" else {})
    argv = ["--no-cache"] if how == "option" else []
    assert rebasin("spec", "trace", "net.py:Net", *argv, cwd=folder, env=env).code == 0
    assert built(folder) > before


@pytest.mark.parametrize(
    "change",
    [
        ("--model-args", '{"hidden": 9}'),
        ("--free-outputs",),
        ("--input-shape", "5,6"),
    ],
)
def test_another_question_is_not_answered_from_the_cache(folder, change):
    trace(folder)
    before = built(folder)
    trace(folder, *change)
    assert built(folder) > before


def test_a_changed_file_is_traced_again(folder):
    trace(folder)
    (folder / "net.py").write_text((folder / "net.py").read_text().replace("12", "10"))
    done = trace(folder, "--json")
    assert done.events[0]["groups"][1]["size"] == 10


def test_a_changed_file_of_inputs_is_read_again(folder):
    asked = ("--input", "inputs.py:one")
    (folder / "inputs.py").write_text("import torch\n\ndef one():\n    return torch.ones(2, 6)\n")
    assert trace(folder, *asked).code == 0
    (folder / "inputs.py").write_text("import torch\n\ndef one():\n    return torch.ones(2, 5)\n")
    assert trace(folder, *asked).code == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"spec": 3}'])
def test_a_damaged_entry_is_traced_again(folder, damage):
    good = trace(folder).out
    (entry,) = (folder / "cache" / "rebasin").iterdir()
    entry.write_text(damage)
    before = built(folder)
    assert trace(folder).out == good
    assert built(folder) > before
    assert json.loads(entry.read_text())["name"] == "net.py:Net"


def test_a_cache_that_cannot_be_written_is_no_error(folder):
    (folder / "cache").write_text("a file")
    done = trace(folder)
    assert done.code == 0
    assert "error" not in done.err


def test_a_dry_run_traces_nothing(folder):
    done = trace(folder, "--dry-run")
    assert json.loads(done.out) == {"command": "spec trace", "target": "net.py:Net", "path": None}
    assert built(folder) == 0


def test_a_traced_spec_serves_as_a_spec(folder):
    planted(folder)
    trace(folder, "-o", "net.yaml")
    done = rebasin("spec", "check", "net.yaml", "a.safetensors", cwd=folder)
    assert done.code == 0
    assert [line.split("\t")[0] for line in done.lines] == ["net.0", "net.1"]


@pytest.mark.slow
def test_a_fresh_process_traces_too(folder):
    done = fresh("spec", "trace", "net.py:Net", cwd=folder, env=cache(folder))
    assert done.code == 0
    assert parse(done.out, source="stdout").name == "Net"
