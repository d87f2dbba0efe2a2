"""The classes of maps and the norms of bundled specs, proved on the models of their libraries.

Every group is mapped at random by its class, in a model of random weights whose norms were folded:
its outputs must be what they were, in float64. Tables of rotary positions are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rebasin_cli.alignment.function_check import plan_function_check
from rebasin_cli.alignment.functions import compare_functions
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.commands.align.auto.plan import AutoPlan, plan_auto
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.fold.command import FoldRequest
from rebasin_cli.commands.related.command import RelatedRequest
from rebasin_cli.commands.related.plan import plan_related
from rebasin_cli.errors import UsageError
from rebasin_cli.folding.folded_models import check_foldable, plan_folding
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import TensorSource
from tests.library.decoders import GPT2, MIXTRAL, MOE, NEOX, ROPE
from tests.library.pictures import VIT

pytestmark = pytest.mark.filterwarnings("ignore")

EXACT, ROTARY = 1e-10, 1e-5
UNTIED = {"tie_word_embeddings": False}
MODELS: dict[str, tuple[str, Mapping[str, Any], float]] = {
    "gpt2": ("GPT2LMHeadModel", {**GPT2, **UNTIED}, EXACT),
    "vit": ("ViTForImageClassification", VIT, EXACT),
    "gpt_neox": ("GPTNeoXForCausalLM", NEOX, ROTARY),
    "llama": ("LlamaForCausalLM", ROPE, ROTARY),
    "mistral": ("MistralForCausalLM", ROPE, ROTARY),
    "qwen2": ("Qwen2ForCausalLM", {**ROPE, **UNTIED}, ROTARY),
    "qwen3": ("Qwen3ForCausalLM", {**ROPE, **UNTIED}, ROTARY),
    "mixtral": ("MixtralForCausalLM", MIXTRAL, ROTARY),
    "qwen2_moe": ("Qwen2MoeForCausalLM", MOE, ROTARY),
    "gemma": ("GemmaForCausalLM", {**ROPE, **UNTIED}, ROTARY),
}
OTHERS: dict[str, tuple[str, Mapping[str, Any], float]] = {
    "gemma2": ("Gemma2ForCausalLM", ROPE, 0.0),
    "gemma3_text": ("Gemma3ForCausalLM", ROPE, 0.0),
    "helium": ("HeliumForCausalLM", ROPE, 0.0),
}
# Of the groups of a layer of each: what is not permuted.
CLASSES = {
    "gpt2": {"qk.0": "orthogonal", "vo.0": "orthogonal"},
    "llama": {"rope.0": "rotary", "vo.0": "orthogonal", "sign.0": "signed"},
    "qwen3": {
        "vo.0": "orthogonal",
        "sign.0": "signed",
    },  # the gain of its norm of queries holds the rest
}
# Where a norm behind each branch holds the stream.
BEHIND = {
    "gemma2": {"rope.0": "rotary", "vo.0": "orthogonal", "sign.0": "signed"},
    "gemma3_text": {"vo.0": "orthogonal", "sign.0": "signed"},
}


def saved(kind: str, folder: Path) -> Checkpoint:
    """Save a small random model of transformers, gains and biases random too, as it does."""
    transformers = pytest.importorskip("transformers", minversion="5.24")
    architecture, fields, _ = {**MODELS, **OTHERS}[kind]
    config = transformers.CONFIG_MAPPING[kind](architectures=[architecture], **fields)
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return open_checkpoint(folder)


def folding_of(model: Checkpoint) -> FoldPlan:
    sizes = {"rotary": 2} if "gpt_neox" in model.config["model_type"] else {}
    return plan_folding(choose_spec([model], Selection(sizes=sizes)), [model])


def difference(model: Checkpoint, other: TensorSource) -> float:
    """Return how far outputs move from one to the other, run as config.json says."""
    check = plan_function_check(model, FoldRequest(model.path, computing=Computing(check=True)))
    assert check is not None
    return compare_functions(check, model, other, inputs=1).difference


@pytest.mark.parametrize(
    "kind",
    [
        "gpt2",
        "llama",
        *(pytest.param(k, marks=pytest.mark.slow) for k in MODELS if k not in CLASSES),
    ],
)
def test_random_maps_of_every_class_keep_the_function(kind: str, tmp_path: Path) -> None:
    with saved(kind, tmp_path) as model:
        plan = folding_of(model)
        folded = FoldedNorms(model, plan)
        bound = plan.moving
        maps = draw_maps(bound.groups.values(), plan.classes, torch.Generator().manual_seed(1))
        assert "stream" in maps.linear
        moved = Carried(folded, bound.tensors, maps)
        limit = MODELS[kind][2]
        assert difference(model, folded) < limit
        assert difference(model, moved) < limit
        # the gains that were folded are random: had one been left, rotating would show
        assert difference(model, Carried(model, bound.tensors, maps)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_what_a_gain_holds_is_not_rotated(kind: str, tmp_path: Path) -> None:
    with saved(kind, tmp_path) as model:
        plan = folding_of(model)
        found = {n: c for n, c in plan.classes.items() if c != "permutation" and n.endswith(".0")}
        assert found == CLASSES[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_a_norm_behind_a_branch_leaves_its_stream_to_permutations_alone(
    kind: str, tmp_path: Path
) -> None:
    with saved(kind, tmp_path) as model:
        plan = folding_of(model)
        with pytest.raises(UsageError, match=r"layernorm\.weight' scales units of stream"):
            check_foldable(plan, kind)
        found = {n: c for n, c in plan.classes.items() if c != "permutation" and n.endswith(".0")}
        assert found == BEHIND[kind]
        maps = draw_maps(plan.bound.groups.values(), plan.classes, torch.Generator().manual_seed(1))
        assert "stream" not in maps.linear
        moved = Carried(model, plan.bound.tensors, maps)
        assert difference(model, moved) < ROTARY


@pytest.mark.slow
def test_a_model_that_turns_other_pairs_under_the_names_of_llama_is_traced(tmp_path: Path) -> None:
    with saved("helium", tmp_path) as model:  # pairs are (2i, 2i + 1), those of llama are not
        bundled = choose_spec([model])
        assert bundled.name == "llama"
        assert {group.maps for group in bundled.bound.groups.values()} == {"permutation"}
        with pytest.raises(UsageError, match="how norms fold in models of other types alone"):
            plan_folding(bundled, [model])
        traced = choose_spec([model], rotated=True)
        assert traced.name == "traced from config.json: HeliumForCausalLM"
        assert "rotary-interleaved" in {group.maps for group in traced.bound.groups.values()}
    both = [tmp_path, tmp_path / "model.safetensors"]
    assert plan_related(RelatedRequest(both)).rotations is not None
    assert isinstance(plan_auto(AlignRequest(both)), AutoPlan)


@pytest.mark.slow
def test_without_a_configuration_nobody_knows_what_a_gain_means(tmp_path: Path) -> None:
    saved("llama", tmp_path).close()
    (tmp_path / "config.json").unlink()
    with open_checkpoint(tmp_path / "model.safetensors") as model:
        choice = choose_spec([model], Selection(spec="llama", sizes={"kv": 2}))
        with pytest.raises(UsageError, match="multiplies by its values or by one plus them"):
            plan_folding(choice, [model])
