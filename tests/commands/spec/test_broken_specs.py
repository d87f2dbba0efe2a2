"""Specs and permutation files that are broken or meant for something else."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.broken import GOOD_SPEC, Row, nothing, refused, rows, writes
from tests.cli.build import mlp, pair, save
from tests.cli.harness import rebasin

PAIR = "a.safetensors b.safetensors"
GIVEN = f"align {PAIR} --spec bad.yaml"


def edited(old: str, new: str):
    """Return what makes bad.yaml, the good spec with one line changed."""
    assert old in GOOD_SPEC
    return writes("bad.yaml", GOOD_SPEC.replace(old, new))


SIZED = "sizes: {heads: config.num_heads}\ngroups:\n  h0: {size: heads}\ntensors:"


def bomb(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 30)]
    (folder / "bad.yaml").write_text("\n".join(lines))


def row(name, says, make, *, argv=GIVEN, code=3):
    return Row(name, argv, code, says, make)


NAMES = rows(
    row(
        "unknown name",
        ("'vgg12'", "did you mean"),
        nothing,
        argv=f"align {PAIR} --spec vgg12",
        code=2,
    ),
    row("file missing", ("no.yaml",), nothing, argv=f"align {PAIR} --spec no.yaml"),
    row(
        "folder for a spec", ("folder",), lambda f: (f / "folder").mkdir(), argv="spec show folder"
    ),
    row("spec of another architecture", ("llama",), nothing, argv=f"align {PAIR} --spec llama"),
    row(
        "unknown name to show",
        ("'mpl'", "did you mean 'mlp'?"),
        nothing,
        argv="spec show mpl",
        code=2,
    ),
    row("missing file to check", ("no.yaml",), nothing, argv="spec check no.yaml"),
    row("missing model to check", ("no.pt: no such file",), nothing, argv="spec check mlp no.pt"),
    row("missing model to start from", ("no.pt: no such file",), nothing, argv="spec init no.pt"),
)

TEXTS = rows(
    row(
        "syntax error",
        ("bad.yaml:4:1: not YAML",),
        writes("bad.yaml", "rebasin: 1\ntensors:\n  a: [b\n"),
    ),
    row("empty file", ("bad.yaml",), writes("bad.yaml", "")),
    row("not UTF-8", ("bad.yaml:1:", "UTF-8"), writes("bad.yaml", b"rebasin: \xff")),
    row(
        "duplicate key",
        ("bad.yaml:5:3: key '0.weight' occurs twice", "line 4"),
        edited("  0.bias: [h0]", "  0.weight: [h0]"),
    ),
    row("unknown key", ("bad.yaml:2:1:", "'nam'"), edited("name: good", "nam: good")),
    row("YAML bomb", ("bad.yaml:1:", "YAML anchors are not read here"), bomb),
    row("unknown version", ("bad.yaml:1:", "'7'"), edited("rebasin: 1", "rebasin: 7")),
    row("unclosed parenthesis", ("bad.yaml:4:",), edited("[h0, ~]", '["(h0", ~]')),
)

FITS = rows(
    row("one-sided group", ("bad.yaml:", "'lone'"), edited("6.bias: [~]", "6.bias: [lone]")),
    row(
        "two sizes",
        ("bad.yaml:", "group 'h0' has two sizes", "2.weight[0] is 11"),
        edited("2.weight: [h1, h0]\n  2.bias: [h1]", "2.weight: [h0, h1]\n  2.bias: [h1]"),
    ),
    row(
        "per without its parent",
        ("bad.yaml:", "'h1'", "'h0'"),
        edited("tensors:", "groups:\n  h1: {per: h0}\ntensors:"),
    ),
    row(
        "product that does not divide",
        ("bad.yaml:", "does not divide the axis", "is 11"),
        edited("4.weight: [h2, h1]", "4.weight: [h2, new * 4]"),
    ),
    row(
        "pattern that matches nothing",
        ("bad.yaml:11:3: pattern '6.bais' matches no tensor", ".bias"),
        edited("6.bias", "6.bais"),
    ),
    row(
        "too many axes",
        ("bad.yaml:", "'6.bias' has 1 axes"),
        edited("6.bias: [~]", "6.bias: [~, ~]"),
    ),
    row(
        "named size missing",
        ("'heads'", "--set heads=N"),
        edited("tensors:", SIZED),
    ),
    row(
        "two problems at once",
        ("'6.bais' matches no tensor", "'lone'"),
        writes("bad.yaml", GOOD_SPEC.replace("6.bias", "6.bais").replace("[~, h2]", "[lone, h2]")),
    ),
    row(
        "strict with an unlisted tensor",
        ("does not mention 1 tensor", "6.bias"),
        edited("  6.bias: [~]\n", ""),
        argv=f"{GIVEN} --strict",
    ),
)


@pytest.mark.parametrize("broken", [*NAMES, *TEXTS, *FITS])
def test_a_broken_spec_is_refused_by_name_and_nothing_changes(tmp_path, broken):
    assert refused(tmp_path, broken).out == ""


def test_the_good_spec_of_the_table_is_good(tmp_path):
    argv = f"align {PAIR} --spec good.yaml --strict -n"
    refused(tmp_path, Row("good", argv, 0, ()))


def rewritten(change):
    """Return what makes good.perm.safetensors of the pair, and bad.safetensors by a change."""

    def make(folder: Path) -> None:
        argv = f"align {PAIR} --spec mlp --save-permutation perm.safetensors".split()
        assert rebasin(*argv, cwd=folder).code == 0
        with safe_open(folder / "perm.safetensors", "pt") as file:
            metadata = file.metadata()
        tensors = load_file(folder / "perm.safetensors")
        change(tensors, metadata)
        save_file(tensors, folder / "bad.safetensors", metadata)

    return make


def repeat(tensors, metadata):
    tensors["hidden.0"][0] = tensors["hidden.0"][1]


def leave(tensors, metadata):
    tensors["hidden.0"][0] = 8


def cut(folder):
    rewritten(repeat)(folder)
    data = (folder / "perm.safetensors").read_bytes()
    (folder / "bad.safetensors").write_bytes(data[:-4])


def other_widths(folder):
    rewritten(lambda tensors, metadata: None)(folder)
    save(folder / "wide.safetensors", mlp(1, (6, 8, 12, 9, 4)))


APPLY = "apply bad.safetensors b.safetensors"
PERMUTATIONS = rows(
    row(
        "no permutation file",
        ("a.safetensors: this is not a permutation file",),
        nothing,
        argv=f"apply {PAIR}",
    ),
    row(
        "no file",
        ("no.safetensors: no such file",),
        nothing,
        argv="apply no.safetensors b.safetensors",
    ),
    row("repeated index", ("bad.safetensors", "'hidden.0'"), rewritten(repeat), argv=APPLY),
    row("index too large", ("bad.safetensors", "'hidden.0'"), rewritten(leave), argv=APPLY),
    row("truncated", ("bad.safetensors",), cut, argv=APPLY),
    row(
        "group missing",
        ("bad.safetensors", "'hidden.2'"),
        rewritten(lambda tensors, metadata: tensors.pop("hidden.2")),
        argv=APPLY,
    ),
    row(
        "fractions",
        ("bad.safetensors", "'hidden.0'"),
        rewritten(lambda tensors, metadata: tensors.update({"hidden.0": torch.full((8,), 0.5)})),
        argv=APPLY,
    ),
    row(
        "spec that is none",
        ("bad.safetensors",),
        rewritten(lambda tensors, metadata: metadata.update({"rebasin.spec": "nonsense"})),
        argv=APPLY,
    ),
    row(
        "sizes that are none",
        ("bad.safetensors",),
        rewritten(lambda tensors, metadata: metadata.update({"rebasin.sizes": "[1]"})),
        argv=APPLY,
    ),
    row(
        "another checkpoint",
        ("bad.safetensors", "does not fit wide.safetensors", "'hidden.2'"),
        other_widths,
        argv="apply bad.safetensors wide.safetensors",
    ),
    row(
        "over the permutation",
        ("bad.safetensors is one of the inputs",),
        rewritten(lambda t, m: None),
        argv=f"{APPLY} -o bad.safetensors --force",
        code=2,
    ),
    row(
        "start for another",
        ("bad.safetensors", "does not fit"),
        other_widths,
        argv="align wide.safetensors wide.safetensors --spec mlp --start bad.safetensors",
    ),
)


@pytest.mark.parametrize("broken", PERMUTATIONS)
def test_a_broken_permutation_is_refused_by_name_and_nothing_changes(tmp_path, broken):
    assert refused(tmp_path, broken).out == ""


def test_the_permutation_of_the_table_is_good(tmp_path):
    pair(tmp_path)
    rewritten(lambda tensors, metadata: None)(tmp_path)
    done = rebasin(*APPLY.split(), cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["b.permuted.safetensors"])
