"""FLUX.1 and SD 3: the original layout against the converters of diffusers, and what keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.spec_choice.choice import choose_spec
from tests.cli.build import same
from tests.library.entry import Fields
from tests.library.single_files.composed import Component, composed, layout_of
from tests.library.single_files.converted import converters
from tests.library.single_files.file_models import FIRST, UNET
from tests.library.single_files.run_and_moved import answers, largest_change, moved, randomised
from tests.library.single_files.transformers_entries import (
    ENCODERS,
    FLUX,
    PUBLISHED,
    SD3,
    SMALL,
    SMALL_FLUX_SIZES,
    SMALL_SD3_DUAL,
    SMALL_SD3_SIZES,
    transformer_of,
)
from tests.library.test_diffusion import headers_only

State = dict[str, Tensor]
pytestmark = pytest.mark.filterwarnings("ignore")
EXACT = 1e-10  # float64
SUMMED = 1e-7  # the norms of queries and keys in diffusers sum in float32
SHORT_FLUX: Fields = {**FLUX, "num_layers": 2, "num_single_layers": 2}
SHORT_SD3: Fields = {**SD3, "num_layers": 3, "sample_size": 32, "pos_embed_max_size": 16}
FROM_FLUX = "convert_flux_transformer_checkpoint_to_diffusers"
FROM_SD3 = "convert_sd3_transformer_checkpoint_to_diffusers"


def numbered(fields: Fields) -> State:
    """Return a tensor for each of a transformer, as long along its first axis, one number each."""
    with torch.device("meta"):
        state = diffusers_subject("model", fields).build().state_dict()
    found, start = {}, 0
    for name, tensor in state.items():
        rows = torch.arange(start, start + len(tensor), dtype=torch.float64)
        found[name] = rows.view(-1, *(1 for _ in tensor.shape[1:]))
        start += len(tensor)
    return found


@pytest.mark.parametrize(
    ("fields", "back"),
    [(SHORT_FLUX, FROM_FLUX), (SHORT_SD3, FROM_SD3), (SMALL_SD3_DUAL, FROM_SD3)],
    ids=["flux", "sd3", "sd3_dual"],
)
def test_the_library_reads_the_layout_as_it_is_written(fields: Fields, back: str) -> None:
    state = numbered(fields)
    layout = layout_of({"transformer": transformer_of(fields)})
    file = layout.stored({f"transformer.{name}": tensor for name, tensor in state.items()})
    assert all(name.startswith(UNET) for name in file)
    assert same(getattr(converters(), back)(dict(file)), state)
    rows = {f"transformer.{name}": len(tensor) for name, tensor in state.items()}
    again = layout.restored(file, rows)
    assert same({n.removeprefix("transformer."): t for n, t in again.items()}, state)


def loaded(components: Mapping[str, Component], model: nn.Module, file: State) -> None:
    """Put the tensors of a file into the models."""
    own = model.state_dict()
    restored = layout_of(components).restored(file, {n: len(t) for n, t in own.items()})
    model.load_state_dict({**own, **restored})


KINDS = (
    ("sd3", SMALL_SD3_SIZES, EXACT),
    pytest.param("sd3_large", SMALL_SD3_SIZES, SUMMED, marks=pytest.mark.slow),
    pytest.param("sd3_dual", SMALL_SD3_SIZES, SUMMED, marks=pytest.mark.slow),
    pytest.param("flux", SMALL_FLUX_SIZES, EXACT, marks=pytest.mark.slow),
    pytest.param("flux_schnell", SMALL_FLUX_SIZES, EXACT, marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("name", "sizes", "accepted"), KINDS)
def test_a_permuted_file_is_the_same_function(
    name: str, sizes: Mapping[str, int], accepted: float
) -> None:
    components = SMALL[name]
    model = randomised(composed(name, components).build())
    before = answers(components, model)
    file = layout_of(components).stored(model.state_dict())
    loaded(components, model, file)
    assert largest_change(before, answers(components, model)) == 0
    other = moved(name.removesuffix("_schnell"), file, sizes)
    assert sum(not torch.equal(file[n], other[n]) for n in file) > 0.7 * len(file)
    loaded(components, model, other)
    assert largest_change(before, answers(components, model)) < accepted


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_of_the_published_size_gets_its_spec(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = composed(name, PUBLISHED[name]).build()
    stored = layout_of(PUBLISHED[name]).stored(model.state_dict())
    shapes = {n: tuple(tensor.shape) for n, tensor in stored.items()}
    bare = {n.removeprefix(UNET): s for n, s in shapes.items() if n.startswith(UNET)}
    for tensors in (
        shapes,
        {n: s for n, s in shapes.items() if not n.startswith(FIRST)},
        {n: s for n, s in shapes.items() if not n.startswith(ENCODERS)},
        bare,
    ):
        with open_checkpoint(headers_only(tmp_path / "model.safetensors", tensors)) as opened:
            choice = choose_spec([opened])
        assert (choice.name, choice.bound.untouched) == (name, ())
        assert choice.whole
