"""The bundled specs that the tracer writes: current, right on larger models, chosen by themselves.

Skipped where the packages that have the models are absent; `make test-all` runs the slow ones.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.errors import SpecError
from rebasin_cli.models.subject import Subject
from rebasin_cli.spec.binding.bind import bind, uncovered_tensors
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.library import bundled_names, load_spec, spec_text
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.compare import ACCEPTED
from rebasin_cli.tracer.classes.proved_classes import TracedTensors, class_drift
from rebasin_cli.tracer.proof.proof import Trial, random_permutations
from tests.library.entry import Entry, Model
from tests.library.table import ENTRIES
from tests.library.written import described, text_of, variants_of
from tests.models import without_biases

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.filterwarnings("ignore")

# The entries that the quick tests try.
QUICK = ("bert", "mixtral", "vit", "lstm", "transformer_encoder")
FOLDERS = {
    "gpt2": "gpt2",
    "bert": "bert",
    "roberta": "roberta",
    "llama": "llama",
    "qwen_moe": "qwen_moe",
    "mixtral": "mixtral",
    "t5": "t5",
    "bart": "bart",
    "whisper": "whisper",
    "clip": "clip",
    "vit": "vit",
}

# Before, these name or look up their tensors in other ways.
WRITTEN_WITH = {"mixtral": "5.24", "vit": "5.24"}


def entry_of(name: str) -> Entry:
    entry = ENTRIES[name]
    pytest.importorskip(entry.needs, minversion=WRITTEN_WITH.get(name))
    return entry


def speeds(names: tuple[str, ...], without: Sequence[str] = ()) -> list[object]:
    """Return the names of all entries but some; those that are not quick are marked slow."""
    rest = [name for name in ENTRIES if name not in (*names, *without)]
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in rest]
    return [*(name for name in names if name not in without), *slow]


@pytest.mark.parametrize("name", speeds(QUICK))
def test_a_spec_is_what_the_tracer_writes_and_says_what_it_finds(name: str) -> None:
    entry = entry_of(name)
    rows = variants_of(entry)
    assert spec_text(name) == text_of(entry, rows), "python -m tests.library.write"
    for row in rows:
        bound = row.bound(load_spec(name))
        assert same_symmetry(bound, row.traced)
        assert uncovered_tensors(bound, row.infos) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.larger])
def test_a_spec_fits_deeper_and_wider_models_alike(name: str) -> None:
    entry = entry_of(name)
    for model in entry.larger:
        row = described(model, files=entry.files)
        assert same_symmetry(row.bound(load_spec(name)), row.traced)


def moved(model: Model, name: str) -> tuple[float, float]:
    """Return by how much the outputs of a model move if its spec permutes all groups.

    And by how much if norms are folded, and each group is mapped at random by its class.
    """
    row = described(model, files=False)
    bound, subject = row.bound(load_spec(name)), model.subject()
    with torch.no_grad():
        built = subject.build()
        calls = [(example.args, example.kwargs) for example in subject.examples(built)]
        built.double()
        double = [
            (
                tuple(_double(value) for value in args),
                {key: _double(value) for key, value in kwargs.items()},
            )
            for args, kwargs in calls
        ]
        trial = Trial(built, double, row.trace.outputs)
        plan = FoldPlan(bound, row.ties)
        plan.check()
        drift = class_drift(plan, TracedTensors(row.infos, row.ties), trial)
        return trial.difference(bound, random_permutations(bound, seed=3)), drift


def _double(value: object) -> object:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    return value


# Their specs have the names of files, under which the model cannot be run: the traces of the
# models are proved, and planted folders of them found, elsewhere.
SINGLE_FILES = tuple(name for name, entry in ENTRIES.items() if entry.variants[0].layout)
CONVERTED = ("mixtral", "qwen_moe", "gpt_neox", "vit", *SINGLE_FILES)


@pytest.mark.parametrize("name", speeds(QUICK, CONVERTED))
def test_permuting_all_groups_of_a_spec_leaves_the_outputs_alone(name: str) -> None:
    entry = entry_of(name)
    assert max(moved(entry.variants[0], name)) < ACCEPTED


RUN = 2e8  # parameters; of more, five copies in float64 do not fit: their traces prove a small one


def parameters(model: Model) -> int:
    return sum(prod(info.shape) for info in described(model, files=False).infos.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ENTRIES if n not in CONVERTED])
def test_so_does_mapping_them_by_their_classes_in_every_variant(name: str) -> None:
    entry = entry_of(name)
    for model in (*entry.variants[1:], *entry.larger):
        if parameters(model) < RUN:
            assert max(moved(model, name)) < ACCEPTED


# Of each library one, and those whose norms fold; the biases of norms are missing too.
BIAS_FREE = (
    "tv_vit",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("bert", "clip", "whisper", "swin")),
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("convnext", "mobilenet_v3_small")),
)


def bias_free(model: Model) -> Model:
    subject = model.subject()
    small = subject.small and _bias_free(subject.small)
    return replace(model, subject=lambda: replace(_bias_free(subject), small=small))


def _bias_free(subject: Subject) -> Subject:
    return replace(
        subject, build=lambda: without_biases(subject.build()), name=f"{subject.name} bias-free"
    )


@pytest.mark.parametrize("name", BIAS_FREE)
def test_a_model_without_biases_fits_and_keeps_its_function(name: str) -> None:
    entry = entry_of(name)
    model = bias_free(entry.variants[0])
    row = described(model, files=False)
    assert not any(tensor.endswith("bias") for tensor in row.infos)
    assert same_symmetry(row.bound(load_spec(name)), row.traced)
    assert max(moved(model, name)) < ACCEPTED


HEADS = {"vit": "classifier.", "tv_vit_b": "heads.", "swin": "head.", "bert-pretraining": "cls."}


def stored_infos(model: Model) -> dict[str, TensorInfo]:
    with torch.device("meta"):
        state = model.subject().build().state_dict()
    return {name: TensorInfo(name, tuple(t.shape), t.dtype) for name, t in state.items()}


def fitting(model: Model, infos: Mapping[str, TensorInfo]) -> set[str]:
    """Return the bundled specs that fit tensors and leave none out."""
    found = set()
    for name in bundled_names():
        with suppress(SpecError):
            bound = bind(load_spec(name), infos, config=model.config())
            found |= {name} if uncovered_tensors(bound, infos) == () else set()
    return found


@pytest.mark.parametrize("name", speeds((), [n for n in ENTRIES if n not in HEADS]))
def test_a_model_without_its_head_fits_none(name: str) -> None:
    model = entry_of(name).variants[0]
    infos = stored_infos(model)
    assert fitting(model, infos)
    body = {n: info for n, info in infos.items() if not n.startswith(HEADS[name])}
    assert len(body) < len(infos)
    assert fitting(model, body) == set()


@pytest.mark.slow
def test_a_pooler_that_the_head_does_not_read_fits_and_stays() -> None:
    model = entry_of("bert").variants[0]
    infos = stored_infos(model)
    shapes = {"weight": (32, 32), "bias": (32,)}
    more = {f"bert.pooler.dense.{end}": shape for end, shape in shapes.items()}
    infos |= {n: TensorInfo(n, shape, torch.float32) for n, shape in more.items()}
    assert fitting(model, infos) == {"bert"}
    bound = bind(load_spec("bert"), infos, config=model.config())
    pooler = {t.members[0]: t.groups for t in bound.tensors if "pooler" in t.members[0]}
    assert pooler == {"bert.pooler.dense.weight": {"stream"}, "bert.pooler.dense.bias": set()}


# the automatic choice


def folder_of(entry: Entry, model: Model, folder: Path) -> None:
    """Save a tiny random model as its library does."""
    config, subject = model.config(), model.subject()
    built: Any = subject.build()
    built.save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text("utf-8"))
    assert stored["model_type"] == config["model_type"]


def chosen(path: Path) -> tuple[str, tuple[str, ...]]:
    with open_checkpoint(path, key=None) as opened:
        choice = choose_spec([opened])
    assert choice.automatic
    return choice.name, choice.alike


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_folder_gets_its_spec(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    entry = ENTRIES[name]
    for position, model in enumerate(entry.variants):
        folder = tmp_path / str(position)
        folder_of(entry, model, folder)
        assert chosen(folder) == (name, ())


@pytest.mark.parametrize("name", ["tv_vit_b", "swin", "convnext", "mobilenet_v3_small", "lstm"])
def test_a_file_without_a_configuration_gets_its_spec(name: str, tmp_path: Path) -> None:
    entry = entry_of(name)
    state = entry.variants[0].subject().build().state_dict()
    save_file({n: t.clone().contiguous() for n, t in state.items()}, tmp_path / "m.safetensors")
    assert chosen(tmp_path / "m.safetensors") == (name, ())


def test_every_bundled_spec_is_written_by_hand_or_by_the_tracer() -> None:
    written = importlib.import_module("tests.test_specs").SPECS
    assert set(ENTRIES) <= set(written)
