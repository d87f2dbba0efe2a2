"""What models of diffusers are fed, and how small copies of them are made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.libraries.diffusers_inputs import diffusers_examples
from rebasin_cli.models.libraries.diffusers_models import _with_latents, shrunk_arguments
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.tensors.trees import tensors_in
from rebasin_cli.tracer.trace import trace

COGVIDEO = {
    "_class_name": "CogVideoXTransformer3DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 12,
    "num_layers": 1,
    "sample_width": 16,
    "sample_height": 16,
    "max_text_seq_length": 7,
}


class Film(nn.Module):
    """Reads films alone, and time only where there is enough of it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"in_channels": 2}
        self.place, self.time = nn.Conv3d(2, 2, 1), nn.Conv3d(2, 2, (4, 1, 1))

    def forward(self, sample: Tensor) -> Tensor:
        if sample.dim() != 5:
            raise ValueError("no film")
        placed: Tensor = self.place(sample)
        return placed if sample.shape[2] < 5 else self.time(placed)


class Choosy(Film):
    """Takes no kind of input; films it looks at more closely."""

    def forward(self, sample: Tensor) -> Tensor:
        if sample.dim() != 5:
            raise ValueError("no film")
        return self.looked_at()

    def looked_at(self) -> Tensor:
        raise ValueError("not one of mine")


class Encoder(nn.Module):
    """An autoencoder whose distribution has no tensor of its parameters."""

    def encode(self, sample: Tensor) -> Any:
        found = SimpleNamespace(mean=sample + 1, logs=sample * 2)
        return SimpleNamespace(to_tuple=lambda: (found,))

    def decode(self, latents: Tensor) -> Tensor:
        return latents * 3

    def forward(self, sample: Tensor) -> Tensor:
        return self.decode(sample)


def test_the_input_is_fed_of_which_most_of_the_model_takes_part() -> None:
    # Of a film of three frames the convolution over time would stay where its units move.
    examples = diffusers_examples(Film, Film())
    shapes = [tensor.shape for e in examples for tensor in tensors_in(e.kwargs)]
    assert shapes == [(2, 2, 9, 16, 16), (3, 2, 9, 24, 24)]


def test_a_refusal_says_how_the_model_got_furthest() -> None:
    with pytest.raises(UsageError, match="that Choosy accepts\ngiven sample: ValueError: not one"):
        diffusers_examples(Choosy, Choosy())


@pytest.mark.slow
@pytest.mark.parametrize("turned", [True, False])
def test_queries_keep_their_order_where_pipelines_turn_them(tmp_path: Path, turned: bool) -> None:
    pytest.importorskip("diffusers")
    fields = {**COGVIDEO, "use_rotary_positional_embeddings": turned}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = trace(subject_of_target(f"diffusers:{tmp_path}"))
    assert found.proof is not None and found.proof.holds
    (query,) = (t for t in found.bound.tensors if t.members[0].endswith("to_q.weight"))
    heads, dims = (dim.group for dim in query.blocks[0].dims[:2])
    assert (heads is None, dims is None) == (False, turned)


def test_latents_of_any_distribution_are_outputs() -> None:
    returned = _with_latents(Encoder)()(torch.zeros(1))
    assert [t.item() for t in returned["latents"][0]] == [1, 0]
    assert returned["decoded"].item() == 0


def test_a_class_that_decodes_something_else_is_left_as_it_is() -> None:
    other = type("Other", (Encoder,), {"forward": lambda self, latents: latents})
    assert _with_latents(other) is other


@pytest.mark.parametrize("axes", [[32] * 4, [16, 56, 56], [2, 2], [2, 2, 2, 2]])
def test_a_small_copy_has_as_many_axes_of_places_as_fill_its_heads(axes: list[int]) -> None:
    fields = {"attention_head_dim": sum(axes), "num_attention_heads": 2, "axes_dims_rope": axes}
    made = shrunk_arguments({**fields, "caption_projection_dim": 2 * sum(axes)})
    assert len(made["axes_dims_rope"]) == len(axes)
    assert sum(made["axes_dims_rope"]) == made["attention_head_dim"]
    assert made["caption_projection_dim"] == 2 * made["attention_head_dim"]
