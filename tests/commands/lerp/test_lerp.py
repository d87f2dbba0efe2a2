"""`rebasin lerp`: which points, where, and what a command says of each."""

import stat
import sys
from collections import Counter

import pytest
import torch

from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.commands.lerp.command import LerpRequest
from rebasin_cli.commands.lerp.plan import plan_lerp
from rebasin_cli.commands.lerp.run import run_lerp
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.output import Output
from rebasin_cli.progress import silent
from tests.cli.build import load, mlp, pair, same, save
from tests.cli.harness import rebasin

LERP = ("lerp", "a.safetensors", "b.safetensors")


def script(folder, body):
    """Write a program that --exec can run and return the words that start it."""
    (folder / "eval.py").write_text(body)
    return f"{sys.executable} -S eval.py"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_steps_are_the_points_strictly_inside(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--steps", "3", cwd=tmp_path)
    assert done.lines == [f"lerp/alpha-0.{a}0000.safetensors" for a in ("25", "50", "75")]
    assert names(tmp_path / "lerp") == [line.removeprefix("lerp/") for line in done.lines]


def test_points_that_lie_near_have_names_of_more_digits(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--at", "0.5,0.50000001", cwd=tmp_path)
    assert done.code == 0, done.err
    assert names(tmp_path / "lerp") == [
        "alpha-0.500000000.safetensors",
        "alpha-0.500000010.safetensors",
    ]


def test_options_that_say_how_to_align_are_told_where_nothing_is_aligned(tmp_path):
    pair(tmp_path)
    idle = ("--spec", "none", "--check", "--effort", "best")
    done = rebasin(*LERP, "--at", "0.5", *idle, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "--spec, --check, options of the search: of no use" in done.err
    done = rebasin(*LERP, "--at", "0.5", "--align", "--spec", "mlp", "-f", cwd=tmp_path)
    assert "of no use" not in done.err


def test_a_point_is_alpha_of_b_and_the_rest_of_a(tmp_path):
    pair(tmp_path)
    rebasin(*LERP, "--at", "0.25", "-o", "x.safetensors", cwd=tmp_path)
    a, b, x = (load(tmp_path / f"{name}.safetensors") for name in "abx")
    for name in a:
        torch.testing.assert_close(x[name], 0.75 * a[name] + 0.25 * b[name])


def test_the_ends_are_exactly_the_models(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--steps", "1", "--endpoints", cwd=tmp_path)
    first, _, last = (load(tmp_path / line) for line in done.lines)
    assert same(first, load(tmp_path / "a.safetensors"))
    assert same(last, load(tmp_path / "b.safetensors"))


def test_places_are_put_in_order_and_may_lie_outside(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--at", "1.5,-0.5", "--at", "0.5", "--json", cwd=tmp_path)
    assert [event["alpha"] for event in done.events[:-1]] == [-0.5, 0.5, 1.5]
    a, b = (load(tmp_path / f"{name}.safetensors") for name in "ab")
    beyond = load(tmp_path / done.events[2]["path"])
    torch.testing.assert_close(beyond["0.bias"], 1.5 * b["0.bias"] - 0.5 * a["0.bias"])


def test_one_point_may_go_to_a_file_of_another_format(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--at", "0.5", "-o", "mid.pt", cwd=tmp_path)
    assert done.lines == ["mid.pt"]
    assert list(load(tmp_path / "mid.pt")) == list(load(tmp_path / "a.safetensors"))


def test_several_points_go_to_the_folder_that_is_named(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--steps", "2", "-o", "curve", "--format", "pt", cwd=tmp_path)
    assert done.lines == ["curve/alpha-0.333333.pt", "curve/alpha-0.666667.pt"]


def test_slerp_keeps_the_length_of_vectors_of_one_length(tmp_path):
    save(tmp_path / "a.safetensors", {"w": torch.tensor([3.0, 0.0])})
    save(tmp_path / "b.safetensors", {"w": torch.tensor([0.0, 3.0])})
    argv = (*LERP, "--at", "0.5", "--mode", "slerp", "-o", "x.safetensors")
    assert rebasin(*argv, cwd=tmp_path).code == 0
    expected = torch.full((2,), 3 * 0.5**0.5)
    torch.testing.assert_close(load(tmp_path / "x.safetensors")["w"], expected)


def test_align_shortens_the_way(tmp_path):
    pair(tmp_path)
    rebasin(*LERP, "--at", "1", "--align", "-o", "end.safetensors", cwd=tmp_path)
    a, b, end = (load(tmp_path / f"{name}.safetensors") for name in ("a", "b", "end"))
    name = "2.weight"
    assert (end[name] - a[name]).norm() < (b[name] - a[name]).norm() / 5


def test_align_names_the_spec_and_what_was_gained(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--at", "0.5", "--align", cwd=tmp_path)
    assert "mlp" in done.err
    assert "distance" in done.err


def test_a_chain_counts_alpha_from_model_to_model(tmp_path):
    pair(tmp_path)
    save(tmp_path / "c.safetensors", mlp(3))
    argv = (*LERP, "c.safetensors", "--chain", "--steps", "1", "--endpoints", "--json")
    done = rebasin(*argv, cwd=tmp_path)
    assert [event["alpha"] for event in done.events[:-1]] == [0, 0.5, 1, 1.5, 2]
    b, c = (load(tmp_path / f"{name}.safetensors") for name in "bc")
    between = load(tmp_path / done.events[3]["path"])
    torch.testing.assert_close(between["2.weight"], (b["2.weight"] + c["2.weight"]) / 2)
    assert same(load(tmp_path / done.events[4]["path"]), c)


def test_integers_and_skipped_tensors_are_those_of_a(tmp_path):
    pair(tmp_path)
    for name, count in (("a", 5), ("b", 8)):
        path = tmp_path / f"{name}.safetensors"
        save(path, {**load(path), "steps": torch.tensor(count)})
    argv = (*LERP, "--at", "0.5", "--skip", "0.*", "-o", "x.safetensors")
    rebasin(*argv, cwd=tmp_path)
    a, x = (load(tmp_path / f"{name}.safetensors") for name in "ax")
    assert x["steps"] == 5
    assert torch.equal(x["0.weight"], a["0.weight"])
    assert not torch.equal(x["2.weight"], a["2.weight"])


def test_a_command_sees_each_file_whose_place_is_then_free_again(tmp_path):
    pair(tmp_path)
    body = "import os, sys\nprint('talk')\nprint(os.path.getsize(sys.argv[1]) > 0, sys.argv[2])"
    command = script(tmp_path, body)
    argv = (*LERP, "--steps", "3", "--exec", f"{command} {{path}} {{alpha}}")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines == [f"{a:.6f}\tTrue {a}" for a in (0.25, 0.5, 0.75)]
    assert not (tmp_path / "lerp").exists()


def test_kept_files_stay(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, "--steps", "2", "--exec", "echo 1", "--keep", cwd=tmp_path)
    assert done.lines == ["lerp/alpha-0.333333.safetensors", "lerp/alpha-0.666667.safetensors"]
    assert names(tmp_path / "lerp") == [line.removeprefix("lerp/") for line in done.lines]


@pytest.mark.parametrize(
    ("said", "value"),
    [("0.125", 0.125), ('{"loss": 2, "acc": [1]}', {"loss": 2, "acc": [1]}), ("fine", "fine")],
)
def test_the_last_line_of_a_command_is_a_number_or_json(tmp_path, said, value):
    pair(tmp_path)
    command = script(tmp_path, f"print('first')\nprint({said!r})\nprint()")
    done = rebasin(*LERP, "--at", "0.5", "--exec", command, "--json", cwd=tmp_path)
    assert done.events[0]["exec"] == value
    assert "path" not in done.events[0]


def test_a_command_that_fails_at_one_point_does_not_stop_the_others(tmp_path):
    pair(tmp_path)
    command = script(tmp_path, "import sys\nsys.exit(3 if sys.argv[1] == '0.5' else print(1))")
    argv = (*LERP, "--steps", "3", "--exec", f"{command} {{alpha}}", "--json")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 5
    assert [event["event"] for event in done.events] == ["result", "error", "result", "summary"]
    assert "exit code 3 at alpha 0.5" in done.err
    assert not (tmp_path / "lerp").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-program {path}", "cannot run 'no-such-program'"),
        ("true", "printed nothing at alpha 0.5"),
        (f"{sys.executable} -S -c 'import os; os.kill(os.getpid(), 9)'", "alpha 0.5"),
    ],
)
def test_a_command_that_says_nothing_is_told(tmp_path, command, message):
    pair(tmp_path)
    done = rebasin(*LERP, "--at", "0.5", "--exec", command, cwd=tmp_path)
    assert done.code == 5
    assert message in done.err
    assert done.out == ""


@pytest.mark.parametrize("body", ["b'\\xff\\xfe'", "b'[' * 100_000", "b'9' * 10_000"])
def test_odd_words_of_a_command_are_no_bug(tmp_path, body):
    pair(tmp_path)
    command = script(tmp_path, f"import sys\nsys.stdout.buffer.write({body} + b'\\n')")
    done = rebasin(*LERP, "--at", "0.5", "--exec", command, "--json", cwd=tmp_path)
    assert "Traceback" not in done.err
    assert done.code in (0, 5)
    assert not (tmp_path / "lerp").exists()


def test_paths_with_spaces_stay_one_word(tmp_path):
    folder = tmp_path / "my models"
    folder.mkdir()
    pair(folder)
    command = script(folder, "import sys\nprint(len(sys.argv))")
    argv = (*LERP, "--at", "0.5", "-o", "the mid.safetensors", "--exec", f"{command} {{path}}")
    done = rebasin(*argv, cwd=folder)
    assert done.lines == ["0.500000\t2"]


def test_the_talk_of_a_command_passes_through(tmp_path):
    pair(tmp_path)
    command = script(tmp_path, "import sys\nprint('loud', file=sys.stderr)\nprint(1)")
    done = rebasin(*LERP, "--at", "0.5", "--exec", command, cwd=tmp_path)
    assert "loud" in done.err
    assert "loud" not in done.out


def test_a_point_that_exists_is_kept_or_replaced_as_asked(tmp_path):
    pair(tmp_path)
    first = rebasin(*LERP, "--steps", "1", cwd=tmp_path)
    path = tmp_path / first.lines[0]
    path.write_bytes(b"mine")
    assert rebasin(*LERP, "--steps", "1", cwd=tmp_path).code == 2
    assert rebasin(*LERP, "--steps", "1", "--no-clobber", cwd=tmp_path).out == first.out
    assert path.read_bytes() == b"mine"
    assert rebasin(*LERP, "--steps", "1", "--force", cwd=tmp_path).out == first.out
    assert path.stat().st_size > 100
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.mark.parametrize("words", ["| tail -1", "> log", "2>&1", "; echo 1", "&& echo 1", "a; b"])
def test_what_only_a_shell_understands_is_refused(tmp_path, words):
    pair(tmp_path)
    done = rebasin(*LERP, "--at", "0.5", "--exec", f"echo {words}", cwd=tmp_path)
    assert done.code == 2
    assert "no shell runs it" in done.err and "bash -c" in done.err
    quoted = f'echo \'{words}\' "x {words}" --x="a {words}"'
    assert rebasin(*LERP, "--at", "0.5", "--exec", quoted, cwd=tmp_path).code == 0


def test_a_line_says_whether_its_ends_were_brought_together(tmp_path):
    pair(tmp_path)
    said = [
        rebasin(*command, "--at", "0.5", "-f", cwd=tmp_path).err
        for command in (LERP, (*LERP, "--align"))
    ]
    assert "1 point between a.safetensors and b.safetensors as they are: --align" in said[0]
    assert "as they are" not in said[1] and "1 point between" in said[1]
    paths = rebasin("align", *LERP[1:], cwd=tmp_path).out
    piped = rebasin("lerp", "--at", "0.5", "-f", cwd=tmp_path, stdin=paths.encode())
    assert "in one basin by their provenance" in piped.err


def test_a_file_that_was_there_is_not_removed_by_exec(tmp_path):
    pair(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    argv = (*LERP, "--at", "0.5", "-o", "mine.safetensors", "--exec", "echo 1", "--force")
    done = rebasin(*argv, cwd=tmp_path)
    assert (done.code, (tmp_path / "mine.safetensors").exists()) == (2, True)


@pytest.mark.parametrize(("room", "times"), [(1 << 30, 1), (1000, 3)])
def test_models_that_fit_into_memory_are_read_once(tmp_path, monkeypatch, room, times):
    pair(tmp_path)
    counts: Counter[str] = Counter()
    read = OpenFile.read_into

    def counted(file, buffer, offset):
        counts[file.path.name] += len(buffer)
        read(file, buffer, offset)

    models = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    request = LerpRequest(
        models,
        steps=3,
        output=Output(out=f"{tmp_path}/line/"),
        computing=Computing(device="cpu", max_memory=room),
    )
    plan = plan_lerp(request)
    for model in plan.models:
        model.sha256()  # provenance: taken once, whatever is kept
    monkeypatch.setattr(OpenFile, "read_into", counted)
    *points, _ = run_lerp(plan, silent)
    assert len(points) == 3
    size = sum(value.nbytes for value in load(models[0]).values())
    assert counts == {model.name: times * size for model in models}
