"""`rebasin widen`: the same function in more units, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.cli.build import load, mlp, same, save, shuffled
from tests.cli.harness import Done, rebasin
from tests.commands.widen.nets import CODE


def run(folder: Path, *argv: str, code: int = 0) -> Done:
    done = rebasin("widen", *argv, cwd=folder)
    assert done.code == code, done.err
    return done


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(CODE)
    save(tmp_path / "a.safetensors", mlp(1))
    return tmp_path


def built(home: Path, name: str, file: str = "n.pt", **arguments: Any) -> torch.nn.Module:
    """Return a network of the file, and save it."""
    torch.manual_seed(3)
    net: torch.nn.Module = run_path(str(home / "net.py"))[name](**arguments)
    save(home / file, net.state_dict())
    return net


PERCEPTRON = ("--model", "net.py:perceptron", "--input", "net.py:rows")
ATTENTION = ("--model", "net.py:Attention", "--input", "net.py:tokens")


def test_groups_are_named_and_old_units_keep_their_places(home: Path) -> None:
    done = run(home, "a.safetensors", "--to", "hidden.*=2x", "--to", "hidden.0=20", "--json")
    event, _ = done.events
    assert [(g["name"], g["before"], g["after"]) for g in event["groups"]] == [
        ("hidden.0", 8, 20),
        ("hidden.2", 11, 22),
        ("hidden.4", 9, 18),
    ]
    before, after = mlp(1), load(home / "a.widened.safetensors")
    assert event["parameters"] == {
        "before": sum(t.numel() for t in before.values()),
        "after": sum(t.numel() for t in after.values()),
    }
    assert event["output_difference"] is None
    assert torch.equal(after["2.weight"][:11, :8], before["2.weight"])
    assert not after["2.weight"][11:].any() and not after["2.weight"][:, 8:].any()
    with safe_open(home / "a.widened.safetensors", "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert record["groups"]["hidden.0"] == [8, 20] and record["command"] == "widen"


def test_the_widths_of_another_checkpoint_are_taken(home: Path) -> None:
    save(home / "w.safetensors", mlp(2, (6, 9, 11, 30, 4)))
    done = run(home, "a.safetensors", "--to", "w.safetensors", "-o", "out.safetensors")
    assert done.lines == ["out.safetensors"]
    assert "a.safetensors widened: hidden.0 8 -> 9, hidden.4 9 -> 30" in done.err
    assert "nothing was run: new units do nothing as the spec has it" in done.err
    assert load(home / "out.safetensors")["4.weight"].shape == (30, 11)


@pytest.mark.parametrize("said", ["hidden.0=twelve", "hidden.0=-3", "hidden.0="])
def test_what_says_no_number_of_units_is_not_taken_for_a_path(home: Path, said: str) -> None:
    done = run(home, "a.safetensors", "--to", said, code=2)
    assert f"--to {said} says no number of units" in done.err
    assert "hint: --to GROUP=N, --to GROUP=2x, or --to MODEL" in done.err


def test_a_path_may_have_an_equals_sign(home: Path) -> None:
    save(home / "seed=1.safetensors", mlp(2, (6, 9, 11, 30, 4)))
    run(home, "a.safetensors", "--to", "seed=1.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_run_as_it_is_and_wider(home: Path, dtype: torch.dtype) -> None:
    state = built(home, "perceptron").state_dict()
    save(home / "n.pt", {name: tensor.to(dtype) for name, tensor in state.items()})
    done = run(home, "n.pt", "--to", "*=12", *PERCEPTRON, "--json")
    assert done.events[0]["output_difference"] < 1e-12
    wide = load(home / "n.widened.pt")
    assert wide["0.weight"].shape == (12, 6) and wide["0.weight"].dtype == dtype


def test_a_norm_of_all_units_is_refused_as_running_shows(home: Path) -> None:
    built(home, "perceptron", norm=True)
    arguments = ("--model-args", '{"norm": true}')
    done = run(home, "n.pt", "--to", "*=12", *PERCEPTRON, *arguments, code=2)
    assert "with these widths the model computes something else" in done.err
    assert "1.weight may be of a norm that takes its units together" in done.err
    assert not (home / "n.widened.pt").exists()


def test_what_only_running_tells_is_refused_where_nothing_can_be_run(home: Path) -> None:
    built(home, "perceptron", norm=True)
    (home / "s.yaml").write_text(
        "rebasin: 1\nname: s\ntensors:\n  0.weight: [h, ~]\n  0.bias: [h]\n"
        "  1.{weight,bias}: [h]\n  3.weight: [~, h]\n  3.bias: [~]\n"
    )
    done = run(home, "n.pt", "--to", "h=12", "--spec", "s.yaml", code=2)
    assert "only running the model shows whether it computes the same with these widths" in done.err
    done = run(home, "n.pt", "--to", "h=12", "--spec", "s.yaml", "--no-check")
    assert "not proved, nothing was run: h: 1.weight may be of a norm" in done.err


def test_heads_and_their_sizes_need_the_class_as_wide(home: Path) -> None:
    net = built(home, "Attention")
    listed = rebasin("spec", "trace", "net.py:Attention", "--input", "net.py:tokens", cwd=home)
    (heads,) = {line.split()[0].strip("':") for line in listed.lines if "{size: 2}" in line}
    done = run(home, "n.pt", "--to", f"{heads}=5", *ATTENTION, code=2)
    assert "--wide-args JSON are the arguments with which your class builds" in done.err
    run(home, "n.pt", "--to", f"{heads}=5", *ATTENTION, "--wide-args", '{"heads": 5}')
    wide = run_path(str(home / "net.py"))["Attention"](heads=5)
    wide.load_state_dict(load(home / "n.widened.pt"))
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(wide(tokens), net(tokens), atol=1e-6)
    done = run(home, "n.pt", "-f", "--to", f"{heads}=5", *ATTENTION, "--wide-args", "[5]", code=2)
    assert "--wide-args '[5]' is not a JSON object" in done.err


def test_heads_with_more_dims_are_scaled(home: Path) -> None:
    net = built(home, "Attention")
    built(home, "Attention", file="wide.pt", size=12)
    run(home, "n.pt", "--to", "wide.pt", *ATTENTION, "--wide-args", '{"size": 12}')
    wide = run_path(str(home / "net.py"))["Attention"](size=12)
    wide.load_state_dict(load(home / "n.widened.pt"))
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(wide(tokens), net(tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ([], "nothing says how wide"),
        (["hiden.0=9"], "no group is called 'hiden.0'"),
        (["hidden.0=7"], "group 'hidden.0' cannot have 7 units instead of 8"),
        (["hidden.0=8"], "is as wide already"),
        (["a.safetensors", "a.safetensors"], "2 models to be as wide as"),
        (["other/config.json"], "other/config.json does not exist"),
    ],
)
def test_what_makes_no_sense_is_told(home: Path, to: list[str], told: str) -> None:
    flags = [word for one in to for word in ("--to", one)]
    assert told in run(home, "a.safetensors", *flags, code=2).err


def test_an_output_that_exists_stays_and_the_plan_writes_nothing(home: Path) -> None:
    done = run(home, "a.safetensors", "--to", "hidden.*=2x", "-n")
    assert json.loads(done.out)["groups"]["hidden.0"] == [8, 16]
    assert not (home / "a.widened.safetensors").exists()
    save(home / "a.widened.safetensors", mlp(7))
    run(home, "a.safetensors", "--to", "hidden.*=2x", "--no-clobber")
    assert same(load(home / "a.widened.safetensors"), mlp(7))


def test_a_narrower_model_is_found_in_one_that_it_was_widened_to(home: Path) -> None:
    run(home, "a.safetensors", "--to", "hidden.*=3x")
    save(home / "big.safetensors", shuffled(load(home / "a.widened.safetensors"), 4))
    done = rebasin("align", "big.safetensors", "a.safetensors", "--widen", "--json", cwd=home)
    assert done.code == 0, done.err
    event = next(e for e in done.events if e.get("model"))
    assert event["distance"]["after"] == 0 and event["widened"]["hidden.0"] == [8, 24]
    assert same(load(home / "a.aligned.safetensors"), load(home / "big.safetensors"))
    merged = rebasin("merge", "big.safetensors", "a.aligned.safetensors", cwd=home)
    assert merged.code == 0 and same(
        load(home / "merged.safetensors"), load(home / "big.safetensors")
    )


def test_a_config_that_no_library_knows_is_not_left_wrong(home: Path) -> None:
    folder = home / "hf"
    save(folder / "model.safetensors", mlp(1))
    (folder / "config.json").write_text('{"architectures": ["None"], "width": 8}')
    flags = ("hf", "--to", "hidden.0=12", "--spec", "mlp")
    done = run(home, *flags, code=2)
    assert "-o FILE.safetensors writes the weights alone" in done.err or "cannot be" in done.err
    run(home, *flags, "-o", "w.safetensors")
    run(home, *flags, "--wide-args", '{"width": 12}', "--no-check", "-o", "wide/")
    assert json.loads((home / "wide" / "config.json").read_text())["width"] == 12


def test_other_parts_of_a_file_keep_their_widths_and_are_called_stale(home: Path) -> None:
    torch.save({"model": mlp(1), "ema": mlp(2), "epoch": 3}, home / "n.pt")
    save(home / "big.safetensors", mlp(2, (6, 20, 20, 20, 4)))
    for command in (
        ("widen", "n.pt", "--to", "big.safetensors"),
        ("align", "big.safetensors", "n.pt"),
    ):
        flags = ("--widen",) if command[0] == "align" else ()
        done = rebasin(*command, *flags, "-o", "out.pt", "-f", cwd=home)
        assert done.code == 0 and "stale: ema" in done.err, done.err
        found = torch.load(home / "out.pt", weights_only=True)
        assert found["model"]["2.weight"].shape == (20, 20) and same(found["ema"], mlp(2))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("a.safetensors", "big.safetensors", "--widen"), "it is wider than a.safetensors"),
        (("big.safetensors", "a.safetensors"), "align --widen gives the narrower model"),
        (("a.safetensors", "big.safetensors"), "align --widen, the wider model named first"),
        (
            ("big.safetensors", "a.safetensors", "--widen", "--symmetry", "orthogonal"),
            "hint: rebasin widen MODEL --to REF first, then align what it writes",
        ),
        (("big.safetensors", "a.safetensors", "--widen", "--common"), "exclude each other"),
    ],
)
def test_models_that_align_does_not_widen(home: Path, argv: tuple[str, ...], told: str) -> None:
    save(home / "big.safetensors", mlp(2, (6, 20, 20, 20, 4)))
    done = rebasin("align", *argv, cwd=home)
    assert done.code in (2, 3) and told in done.err


def test_align_runs_the_reference_with_its_layers_resized(home: Path) -> None:
    built(home, "perceptron", norm=True)
    built(home, "perceptron", file="big.pt", norm=True, hidden=16)
    arguments = ("--model-args", '{"norm": true, "hidden": 16}')
    done = rebasin("align", "big.pt", "n.pt", "--widen", *PERCEPTRON, *arguments, cwd=home)
    assert done.code == 2 and "with these widths the model computes something else" in done.err
    built(home, "perceptron")
    built(home, "perceptron", file="big.pt", hidden=16)
    arguments = ("--model-args", '{"hidden": 16}')
    done = rebasin("align", "big.pt", "n.pt", "--widen", *PERCEPTRON, *arguments, cwd=home)
    assert done.code == 0 and "widened: layer.0 8 -> 16" in done.err, done.err
