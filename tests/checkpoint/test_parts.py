"""What a PyTorch file holds beside the weights: more sets of them, what is stale, what is not."""

import pytest
import torch

from rebasin_cli.checkpoint.parts import Rest, dotted_path, rest_of

W = {
    "0.weight": torch.randn(4, 3),
    "0.bias": torch.randn(4),
    "1.running_mean": torch.randn(4),
    "1.num_batches_tracked": torch.tensor(3),
}
OPTIMIZER = {"state": {0: {"exp_avg": torch.randn(4, 3), "step": 3}}, "param_groups": [{"lr": 1}]}


def times(factor):
    return {name: tensor * factor for name, tensor in W.items()}


def renamed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in times(2).items()}


@pytest.mark.parametrize(
    "part",
    [
        times(2),
        renamed("module."),
        renamed("module.module."),
        renamed("_orig_mod."),
        renamed("module._orig_mod."),
        renamed("net."),
        {**renamed("module."), "n_averaged": torch.tensor(9)},
        {"0.weight": W["0.weight"] * 2, "0.bias": W["0.bias"] * 2},
        {name: t for name, t in renamed("net.").items() if t.numel() > 1},
    ],
    ids=[
        *("plain", "module", "twice", "compiled", "both", "a name", "averaged", "parameters"),
        "no counters",
    ],
)
@pytest.mark.parametrize("path", [("ema",), ("any", "depth", "shadow"), (0,)], ids=dotted_path)
def test_a_set_of_the_same_tensors_is_found_wherever_it_is(part, path):
    value = part
    for key in reversed(path):
        value = {key: value}
    container = {"model": W, "epoch": 3, **value}
    rest = rest_of(container, W)
    assert [found.path for found in rest.parts] == [path]
    for name, stored in rest.parts[0].names.items():
        assert torch.equal(part[stored], W[name] * 2)
    assert {"0.weight", "0.bias"} <= rest.parts[0].names.keys()
    assert rest.stale == ()


@pytest.mark.parametrize(
    "value",
    [
        {**times(2), "0.weight": torch.randn(3, 4)},
        {**times(2), "2.weight": torch.randn(4, 3)},
        {"0.weight": W["0.weight"].to_sparse()},
    ],
    ids=["another shape", "another tensor", "sparse"],
)
def test_other_tensors_are_no_part_and_stale(value):
    rest = rest_of({"model": W, "other": value}, W)
    assert rest.parts == ()
    assert rest.stale == (("other",),)


def test_what_follows_the_weights_otherwise_is_stale():
    container = {"state_dict": W, "optimizer": OPTIMIZER, "run": {"gradients": times(3), "lr": 0.1}}
    rest = rest_of(container, W)
    assert rest.stale == (("optimizer",), ("run",))


def test_numbers_that_are_no_weights_are_silent():
    harmless = {
        "epoch": 3,
        "args": {"lr": 0.1},
        "losses": torch.rand(50),
        "class_weights": torch.rand(4),
        "rng": torch.get_rng_state(),
        "best": torch.tensor(0.9),
        "optimizer": {"state": {}, "param_groups": [{"params": [0, 1]}]},
    }
    rest = rest_of({"model": W, **harmless}, W)
    assert rest.stale == ()
    assert {path[0] for path in rest.harmless} == harmless.keys()


def test_one_set_under_two_keys_is_the_weights():
    assert rest_of({"model": W, "ema": W}, W).parts == ()


def test_a_flat_file_has_no_rest():
    assert rest_of(W, W) == Rest()


def test_weights_that_are_nowhere_in_the_file_have_no_rest():
    assert rest_of({"model": W}, dict(W)) == Rest()
