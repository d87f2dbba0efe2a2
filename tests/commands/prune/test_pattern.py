"""N:M sparsity: at most N of every M neighbours along the inputs, by every method."""

import numpy as np
import pytest
import torch

from rebasin_cli.commands.prune.neighbour_pattern import NeighbourPattern
from tests.cli.build import load, save
from tests.cli.harness import rebasin
from tests.commands.prune.test_fisher import NET, SPACE, USER


def kept_by_hand(values, kept, group):
    """Return the mask by sorting each group of neighbours along axis 1, with numpy."""
    values = np.moveaxis(np.abs(values), 1, -1)
    mask = np.ones(values.shape, dtype=bool)
    for place in np.ndindex(values.shape[:-1]):
        for start in range(0, values.shape[-1], group):
            order = np.argsort(values[place][start : start + group], kind="stable")
            mask[place][start + order[: max(0, len(order) - kept)]] = False
    return np.moveaxis(mask, -1, 1)


@pytest.mark.parametrize("shape", [(3, 8), (2, 7), (2, 6, 3), (4, 9, 2, 2), (2, 1, 3, 3), (0, 4)])
@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8), (1, 2)])
def test_the_largest_of_each_group_stay(shape, kept, group):
    values = torch.randn(shape).mul(2).round()  # with equal ones
    found = NeighbourPattern(kept, group).keeps(values).numpy()
    assert np.array_equal(found, kept_by_hand(values.numpy(), kept, group))


@pytest.mark.parametrize("method", ["magnitude", "layer-magnitude"])
def test_by_size_of_every_four_inputs_two_stay(tmp_path, method):
    state = {"a.weight": torch.randn(5, 12), "b.weight": torch.randn(6, 8, 3, 3)}
    save(tmp_path / "m.safetensors", {**state, "a.bias": torch.randn(5)})
    done = rebasin("prune", "m.safetensors", "--pattern", "2:4", "--method", method, cwd=tmp_path)
    found = load(tmp_path / "m.pruned.safetensors")
    for name, tensor in state.items():
        mask = kept_by_hand(tensor.numpy(), 2, 4)
        assert np.array_equal(found[name].numpy(), np.where(mask, tensor.numpy(), 0))
    assert "(50 %) set to zero" in done.err
    assert "at most 2 of every 4 inputs stay in 2 tensors, the smallest went" in done.err


@pytest.mark.parametrize(
    "method", [pytest.param("diagonal-fisher", marks=pytest.mark.slow), "block-fisher"]
)
def test_by_gradients_of_every_four_inputs_two_stay(tmp_path, method):
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(1)
    model = SPACE["Net"]()
    save(tmp_path / "m.safetensors", model.state_dict())
    argv = ("--pattern", "2:4", "--method", method, "--json")
    done = rebasin("prune", "m.safetensors", *USER, *argv, cwd=tmp_path)
    (event, _) = done.events
    assert (event["pattern"], event["sparsity"], event["threshold"]) == ("2:4", None, None)
    linear = load(tmp_path / "m.pruned.safetensors")["net.3.weight"]
    kept = (linear != 0).reshape(3, 5, 4).sum(-1)
    assert torch.equal(kept, torch.full((3, 5), 2))
    before = model.state_dict()["net.3.weight"]
    assert torch.equal(linear[linear != 0], before[linear != 0]) is (method == "diagonal-fisher")


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "2", "2:4:8", "a:b", "-1:4"])
def test_a_pattern_that_is_none_is_refused(tmp_path, text):
    save(tmp_path / "m.safetensors", {"a.weight": torch.randn(5, 12)})
    done = rebasin("prune", "m.safetensors", f"--pattern={text}", cwd=tmp_path)
    assert done.code == 2
    assert f"--pattern {text} is no N:M" in done.err
    assert "2:4 keeps at most 2 of every 4" in done.err


def test_a_share_beside_a_pattern_is_refused(tmp_path):
    save(tmp_path / "m.safetensors", {"a.weight": torch.randn(5, 12)})
    argv = ("--pattern", "2:4", "--sparsity", "0.5")
    done = rebasin("prune", "m.safetensors", *argv, cwd=tmp_path)
    assert done.code == 2
    assert "--sparsity and --pattern exclude each other" in done.err
