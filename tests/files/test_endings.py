"""What the ending of an output's name means: the same in upper and in lower case."""

import pytest

from tests.cli.build import load, mlp, pair, same, save, sharded
from tests.cli.harness import rebasin
from tests.cli.models import planted, write_net

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")
TORCH = (".PT", ".BIN", ".Ckpt", ".pth.tar", ".PTH.TAR", ".pt.TAR")
ANY = (*TORCH, ".Safetensors", ".SAFETENSORS")


def is_torch(path):
    """Tell the format of a file by its bytes: torch.save writes a ZIP archive."""
    return path.read_bytes()[:2] == b"PK"


@pytest.mark.parametrize("ending", ANY)
@pytest.mark.parametrize("given", [".safetensors", pytest.param(".pt", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "argv",
    ["lerp {} --at 0.5", "merge {} --spec mlp", "align {} --spec mlp"],
    ids=["lerp", "merge", "align"],
)
def test_an_ending_means_its_format_in_upper_case_too(tmp_path, argv, given, ending):
    pair(tmp_path, given)
    argv = argv.format(f"a{given} b{given}").split()
    done = rebasin(*argv, "-o", f"out{ending}", cwd=tmp_path)
    assert done.code == 0, done.err
    assert is_torch(tmp_path / f"out{ending}") == (ending in TORCH)
    assert rebasin("diff", f"out{ending}", f"out{ending}", cwd=tmp_path).code == 0


@pytest.mark.parametrize("ending", ANY)
def test_a_format_may_not_contradict_an_ending_in_upper_case(tmp_path, ending):
    pair(tmp_path)
    wrong = "safetensors" if ending in TORCH else "pt"
    argv = ("lerp", *ALIGN[1:3], "--at", "0.5", "--format", wrong, "-o", f"out{ending}")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 2
    assert f"--format {wrong} contradicts the ending of out{ending}" in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("ending", ANY)
@pytest.mark.parametrize("asked", [False, True], ids=["as it is", "asked for"])
def test_a_result_beside_its_model_keeps_its_ending_as_it_is_written(tmp_path, ending, asked):
    pair(tmp_path, ending)
    format = ("--format", "pt" if ending in TORCH else "safetensors") if asked else ()
    done = rebasin("align", f"a{ending}", f"b{ending}", "--spec", "mlp", *format, cwd=tmp_path)
    assert done.lines[1] == f"b.aligned{ending}", done.err
    done = rebasin("verify", done.lines[1], f"b{ending}", "--spec", "mlp", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize("ending", TORCH[:2])
def test_another_format_takes_another_ending(tmp_path, ending):
    pair(tmp_path, ending)
    argv = (f"a{ending}", f"b{ending}", "--spec", "mlp", "--format", "safetensors")
    assert rebasin("align", *argv, cwd=tmp_path).lines[1] == "b.aligned.safetensors"


@pytest.mark.parametrize("ending", [".pt", *TORCH])
@pytest.mark.parametrize("command", ["align", "verify"])
def test_a_permutation_is_no_torch_file(tmp_path, command, ending):
    pair(tmp_path)
    argv = (command, *ALIGN[1:], "--save-permutation", f"p{ending}")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 2
    assert f"p{ending} would be a safetensors file" in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("name", ["p.Safetensors", "p.perm", "p"])
def test_a_permutation_can_be_read_again_whatever_its_name(tmp_path, name):
    pair(tmp_path)
    assert rebasin(*ALIGN, "--save-permutation", name, cwd=tmp_path).code == 0
    done = rebasin("apply", name, "b.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert same(*(load(tmp_path / f"b.{how}.safetensors") for how in ("aligned", "permuted")))


@pytest.mark.parametrize("name", ["s.pt", "s.PTH.TAR"])
def test_statistics_are_no_torch_file(tmp_path, name):
    write_net(tmp_path)
    planted(tmp_path)
    (tmp_path / "data.py").write_text("import torch\nbatches = lambda: iter([torch.randn(5, 6)])\n")
    given = ("--model", "net.py:Net", "--data", "data.py:batches", "--no-cache")
    done = rebasin("statistics", *ALIGN[1:3], *given, "-o", name, cwd=tmp_path)
    assert done.code == 2
    assert f"{name} would be a safetensors file" in done.err


def test_a_result_beside_an_index_is_a_folder_called_as_its_weights(tmp_path):
    save(tmp_path / "a.safetensors", mlp(1))
    sharded(tmp_path / "b", mlp(2), {})
    index = "b/model.safetensors.index.json"
    done = rebasin("align", "a.safetensors", index, "--spec", "mlp", cwd=tmp_path)
    assert done.lines[1:] == ["b/model.aligned"], done.err
    assert (tmp_path / "b/model.aligned/model.safetensors.index.json").is_file()
