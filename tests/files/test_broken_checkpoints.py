"""Broken checkpoint files: each is refused with the right code, by name, and nothing changes."""

import json
import os
from pathlib import Path

import pytest
import torch

from tests.cli.broken import ALIGN, Row, entry, raw, refused, rows, without, writes
from tests.cli.build import mlp, save, sharded


class Payload:
    """A pickle of this writes a file when it is loaded the unsafe way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def truncated(folder):
    data = save(folder / "bad.safetensors", mlp(3)).read_bytes()
    (folder / "bad.safetensors").write_bytes(data[:-10])


def truncated_torch(folder):
    data = save(folder / "bad.pt", mlp(3)).read_bytes()
    (folder / "bad.pt").write_bytes(data[: len(data) // 2])


def payload(folder):
    torch.save({"0.weight": torch.zeros(2), "x": Payload(folder / "executed")}, folder / "bad.pt")


def not_finite(value):
    def make(folder):
        state = mlp(3)
        state["2.weight"][1, 2] = value
        save(folder / "bad.safetensors", state)

    return make


def changed(change):
    """Return what makes bad.safetensors, a model whose state dict was changed."""
    return lambda folder: save(folder / "bad.safetensors", change(mlp(3)))


def index(change):
    """Return what makes bad/, a sharded folder with a changed weight_map."""

    def make(folder):
        sharded(folder / "bad", mlp(3), {})
        path = folder / "bad" / "model.safetensors.index.json"
        fields = json.loads(path.read_text())
        change(fields["weight_map"])
        path.write_text(json.dumps(fields))

    return make


def two_files(folder):
    save(folder / "bad" / "one.safetensors", mlp(3))
    save(folder / "bad" / "two.safetensors", mlp(4))


def no_weights(folder):
    (folder / "bad").mkdir()
    (folder / "bad" / "config.json").write_text("{}")


def missing_shard(folder):
    sharded(folder / "bad", mlp(3), {})
    (folder / "bad" / "model-00002-of-00002.safetensors").unlink()


def duplicate_index_keys(folder):
    sharded(folder / "bad", mlp(3), {})
    text = '{"weight_map": {"0.weight": "x.safetensors", "0.weight": "y.safetensors"}}'
    (folder / "bad" / "model.safetensors.index.json").write_text(text)


SAFETENSORS = rows(
    Row("truncated", ALIGN, 3, ("bad.safetensors",), truncated),
    Row(
        "zero bytes",
        ALIGN,
        3,
        ("bad.safetensors: the file is empty",),
        writes("bad.safetensors", b""),
    ),
    Row(
        "overlapping offsets",
        ALIGN,
        3,
        ("bad.safetensors", "'b'"),
        writes("bad.safetensors", raw({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12))),
    ),
    Row(
        "hole",
        ALIGN,
        3,
        ("bad.safetensors", "'b'"),
        writes("bad.safetensors", raw({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12))),
    ),
    Row(
        "lying size",
        ALIGN,
        3,
        ("bad.safetensors", "'a' has a wrong number of bytes", "expected 12", "found 8"),
        writes("bad.safetensors", raw({"a": entry(0, 8, [3])}, bytes(8))),
    ),
    Row(
        "bytes after the end",
        ALIGN,
        3,
        ("bad.safetensors",),
        writes("bad.safetensors", raw({"a": entry(0, 8, [2])}, bytes(99))),
    ),
    Row(
        "header too large",
        ALIGN,
        3,
        ("bad.safetensors", "the limit is 100000000"),
        writes("bad.safetensors", raw({}, length=2**40)),
    ),
    Row(
        "header not UTF-8",
        ALIGN,
        3,
        ("bad.safetensors", "not UTF-8"),
        writes("bad.safetensors", raw(b'{"\xff": 1}')),
    ),
    Row(
        "duplicate tensor names",
        ALIGN,
        3,
        ("bad.safetensors", "duplicate keys: 'a'"),
        writes("bad.safetensors", raw(b'{"a": {}, "a": {}}')),
    ),
    Row(
        "unknown dtype",
        ALIGN,
        3,
        ("bad.safetensors", "'a'", "F33"),
        writes("bad.safetensors", raw({"a": entry(0, 8, [2], "F33")}, bytes(8))),
    ),
    Row(
        "negative shape",
        ALIGN,
        3,
        ("bad.safetensors", "'a'"),
        writes("bad.safetensors", raw({"a": entry(0, 8, [-2])}, bytes(8))),
    ),
    Row(
        "text in place of weights",
        "inspect bad.safetensors",
        3,
        ("bad.safetensors",),
        writes("bad.safetensors", "<html>404 Not Found</html>"),
    ),
    Row("nonexistent", "align a.safetensors b.safetensor", 3, ("did you mean 'b.safetensors'?",)),
    Row("nonexistent folder", "inspect nowhere/b.safetensors", 3, ("nowhere/b.safetensors",)),
    Row(
        "two broken at once",
        "align one.safetensors two.safetensors",
        3,
        ("one.safetensors: no such file", "two.safetensors: no such file"),
    ),
)

TORCH = rows(
    Row("code in a pickle", "align a.safetensors bad.pt", 3, ("bad.pt", "mkdir"), payload),
    Row("truncated zip", "inspect bad.pt", 3, ("bad.pt",), truncated_torch),
    Row("garbage", "inspect bad.pt", 3, ("bad.pt",), writes("bad.pt", b"\x80\x02garbage")),
    Row("empty", "inspect bad.pt", 3, ("bad.pt",), writes("bad.pt", b"")),
    Row(
        "without tensors",
        "inspect bad.pt",
        3,
        ("bad.pt: no state dict found", "it holds epoch (int)", "torch.save(model.state_dict()"),
        lambda folder: torch.save({"epoch": 3}, folder / "bad.pt"),
    ),
    Row(
        "wrong key",
        "inspect bad.pt --key emma",
        3,
        ("bad.pt: there is no part 'emma'", "did you mean 'ema'?"),
        lambda folder: torch.save({"ema": mlp(3)}, folder / "bad.pt"),
    ),
)

FOLDERS = rows(
    Row("no weights", "inspect bad", 3, ("bad: no weights in this folder",), no_weights),
    Row("two weight files", "inspect bad", 3, ("one.safetensors, two.safetensors",), two_files),
    Row(
        "index with an absolute path",
        "inspect bad",
        3,
        ("'0.weight'", "'/etc/passwd' is outside the folder"),
        index(lambda names: names.update({"0.weight": "/etc/passwd"})),
    ),
    Row(
        "index with dots",
        "inspect bad",
        3,
        ("'../a.safetensors' is outside the folder",),
        index(lambda names: names.update({"0.weight": "../a.safetensors"})),
    ),
    Row("missing shard", "inspect bad", 3, ("model-00002-of-00002",), missing_shard),
    Row(
        "stale index",
        "align a.safetensors bad --spec mlp",
        3,
        ("tensor 'old.weight' is in", "'6.bias'"),
        index(lambda names: names.update({"old.weight": names.pop("6.bias")})),
    ),
    Row("duplicate index keys", "inspect bad", 3, ("duplicate",), duplicate_index_keys),
    Row(
        "index that is no JSON",
        "inspect bad/model.safetensors.index.json",
        3,
        ("model.safetensors.index.json", "is not JSON"),
        lambda folder: writes("bad/model.safetensors.index.json", "{")(
            sharded(folder / "bad", mlp(3), {}).parent
        ),
    ),
)

UNFIT = rows(
    Row("NaN", ALIGN, 3, ("bad.safetensors", "'2.weight' holds NaN"), not_finite(float("nan"))),
    Row("infinity", ALIGN, 3, ("bad.safetensors", "'2.weight'"), not_finite(float("inf"))),
    Row(
        "NaN in the reference",
        "align bad.safetensors b.safetensors --spec mlp",
        3,
        ("bad.safetensors", "'2.weight' holds NaN"),
        not_finite(float("nan")),
    ),
    Row(
        "NaN in merge",
        "merge a.safetensors bad.safetensors --spec mlp",
        3,
        ("bad.safetensors", "'2.weight' holds NaN"),
        not_finite(float("nan")),
    ),
    Row(
        "NaN in the reference of a merge",
        "merge bad.safetensors b.safetensors --spec mlp",
        3,
        ("bad.safetensors", "'2.weight' holds NaN"),
        not_finite(float("nan")),
    ),
    Row(
        "NaN in a plain mean",
        "merge a.safetensors bad.safetensors --strategy none",
        3,
        ("bad.safetensors", "'2.weight'"),
        not_finite(float("nan")),
    ),
    Row(
        "infinity between two models",
        "lerp a.safetensors bad.safetensors --at 0.5 -o mid.safetensors",
        3,
        ("bad.safetensors", "'2.weight'"),
        not_finite(float("inf")),
    ),
    Row(
        "overflow of the dtype",
        "merge bad.safetensors bad.safetensors --strategy none --dtype float16",
        3,
        ("'2.weight'", "float16"),
        not_finite(1e6),
    ),
    Row(
        "overflow of a similarity",
        ALIGN,
        3,
        ("similarities overflow float32", "training that diverged"),
        changed(lambda state: {**state, "2.weight": state["2.weight"].sign() * 3e38}),
    ),
    Row(
        "wrong shape",
        ALIGN,
        3,
        ("bad.safetensors", "2.bias is [12], expected [11]"),
        changed(lambda state: {**state, "2.bias": torch.zeros(12)}),
    ),
    Row(
        "missing tensor",
        ALIGN,
        3,
        ("bad.safetensors", "missing: 4.bias"),
        changed(lambda state: without(state, "4.bias")),
    ),
    Row(
        "extra tensor",
        "merge a.safetensors bad.safetensors",
        3,
        ("bad.safetensors", "not expected: extra"),
        changed(lambda state: {**state, "extra": torch.zeros(1)}),
    ),
    Row(
        "other names in the middle",
        ALIGN,
        3,
        (r"--rename '2:(^|\.)w$=\1weight' makes the names equal",),
        changed(lambda state: {name.replace("weight", "w"): t for name, t in state.items()}),
    ),
    Row(
        "another architecture",
        "lerp a.safetensors bad.safetensors --steps 3",
        3,
        ("bad.safetensors", "conv.weight", "0.weight"),
        changed(lambda state: {"conv.weight": torch.zeros(2, 2, 3, 3)}),
    ),
    Row(
        "no bundled spec fits",
        "align bad.safetensors bad.safetensors",
        2,
        ("no bundled spec fits", "bad.safetensors", "spec init"),
        changed(lambda state: {"conv.weight": torch.zeros(2, 2, 3, 3)}),
    ),
)


@pytest.mark.parametrize("row", [*SAFETENSORS, *TORCH, *FOLDERS, *UNFIT])
def test_a_broken_checkpoint_is_refused_by_name_and_nothing_changes(tmp_path, row):
    refused(tmp_path, row)


def test_the_good_models_of_the_tables_are_good(tmp_path):
    row = Row("good", "align a.safetensors b.safetensors --spec good.yaml -n", 0, ())
    refused(tmp_path, row)
