"""Fisher pruning against the paper's formulas, computed by numpy example by example."""

import json
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from rebasin_cli.commands.prune.fisher.block_inverse import BlockCut, update_weights
from rebasin_cli.commands.prune.fisher.example_gradients import ExampleLosses
from rebasin_cli.commands.prune.fisher.fisher_passes import FisherBlocks, plan_passes
from rebasin_cli.errors import MachineError
from rebasin_cli.network.batches import Batches
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Window
from tests.cli.build import load, save
from tests.cli.harness import rebasin

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))

    def forward(self, x):
        return self.net(x)


class Branching(Net):
    def forward(self, x):
        return self.net(x) * (2 if x.sum() > 0 else 1)


class Mute(Net):
    def forward(self, x):
        with torch.no_grad():
            return self.net(x)


def batches():
    generator = torch.Generator().manual_seed(0)
    for rows in (7, 4):
        yield (
            torch.randn(rows, 2, 3, 3, generator=generator),
            torch.randint(3, (rows,), generator=generator),
        )


def unlabelled():
    return (inputs for inputs, _ in batches())
"""
USER = ("--model", "net.py:Net", "--data", "net.py:batches")
WEIGHTS = ("net.0.weight", "net.3.weight")
SPACE: dict[str, Any] = {}
exec(NET, SPACE)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(1)
    made = SPACE["Net"]()
    save(tmp_path / "m.safetensors", made.state_dict())
    return made


def single_gradients(model):
    """Return the gradient of every example, one backward pass each: name -> (examples, *shape)."""
    rows: dict[str, list] = {name: [] for name in WEIGHTS}
    for inputs, targets in SPACE["batches"]():
        for k in range(len(inputs)):
            model.zero_grad()
            nn.functional.cross_entropy(model(inputs[k : k + 1]), targets[k : k + 1]).backward()
            for name in WEIGHTS:
                rows[name].append(model.get_parameter(name).grad.double().numpy().copy())
    return {name: np.stack(found) for name, found in rows.items()}


def woodbury(gradients, damping):
    """Return the inverse of the Fisher of one block, gradient by gradient: equation 3 and below."""
    inverse = np.eye(gradients.shape[1]) / damping
    for g in gradients:
        along = inverse @ g
        inverse = inverse - np.outer(along, along) / (len(gradients) + g @ along)
    return inverse


def obs(model, share, block_size, damping):
    """Return pruned weights and masks: every formula of the paper, weight by weight."""
    gradients = single_gradients(model)
    mean = sum((g**2).mean(0).sum() for g in gradients.values())
    damped = damping * mean / sum(g[0].size for g in gradients.values())
    places: list[tuple] = []
    costs: list[float] = []
    updates = {}
    weights = {name: model.get_parameter(name).detach().double().numpy() for name in WEIGHTS}
    for name in WEIGHTS:
        rows = weights[name].reshape(len(weights[name]), -1)
        seen = gradients[name].reshape(len(gradients[name]), *rows.shape)
        for row in range(len(rows)):
            for start in range(0, rows.shape[1], block_size):
                block = range(start, min(start + block_size, rows.shape[1]))
                inverse = woodbury(seen[:, row, block], damped)
                for k, column in enumerate(block):
                    value = rows[row, column]
                    places.append((name, row, column))
                    costs.append(value**2 / (2 * inverse[k, k]))
                    change = -value / inverse[k, k] * inverse[:, k]
                    updates[name, row, column] = (block, change)
    gone = [places[k] for k in np.argsort(costs, kind="stable")[: round(share * len(costs))]]
    found = {name: weights[name].reshape(len(weights[name]), -1).copy() for name in WEIGHTS}
    for name, row, column in gone:
        block, change = updates[name, row, column]
        found[name][row, list(block)] += change
    for name, row, column in gone:
        found[name][row, column] = 0
    return {name: found[name].reshape(weights[name].shape) for name in WEIGHTS}


@pytest.mark.parametrize("block_size", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_blocks_give_the_weights_of_the_formulas(tmp_path, model, block_size):
    argv = ("--sparsity", "0.4", "--method", "block-fisher", "--damping", "0.03")
    size = ("--block-size", str(block_size))
    done = rebasin("prune", "m.safetensors", *USER, *argv, *size, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (event, _) = done.events
    assert (event["fisher"]["examples"], event["fisher"]["block_size"]) == (11, block_size)
    found = load(tmp_path / "m.pruned.safetensors")
    for name, expected in obs(model, 0.4, block_size, 0.03).items():
        np.testing.assert_allclose(found[name].double().numpy(), expected, rtol=2e-4, atol=1e-6)
        assert np.array_equal(found[name].numpy() == 0, expected == 0)
    for name in ("net.0.bias", "net.3.bias"):
        assert torch.equal(found[name], model.state_dict()[name])
    with safe_open(tmp_path / "m.pruned.safetensors", "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert record["fisher"] == event["fisher"]


def test_the_diagonal_takes_what_costs_least_and_moves_nothing(tmp_path, model):
    argv = ("--sparsity", "0.5", "--method", "diagonal-fisher")
    done = rebasin("prune", "m.safetensors", *USER, *argv, cwd=tmp_path)
    assert "the diagonal of the Fisher of 11 examples; the others stay as they were" in done.err
    found = load(tmp_path / "m.pruned.safetensors")
    gradients = single_gradients(model)
    weights = {name: model.get_parameter(name).detach().double().numpy() for name in WEIGHTS}
    costs = np.concatenate(
        [(weights[n] ** 2 * (gradients[n] ** 2).mean(0)).flatten() for n in WEIGHTS]
    )
    kept = np.ones(len(costs), dtype=bool)
    kept[np.argsort(costs, kind="stable")[: round(0.5 * len(costs))]] = False
    flat = np.concatenate([weights[n].flatten() for n in WEIGHTS])
    got = np.concatenate([found[n].double().numpy().flatten() for n in WEIGHTS])
    assert np.array_equal(got, np.where(kept, flat, 0))


def test_passes_of_little_memory_give_what_one_pass_gives(model):
    gradients = {n: torch.tensor(g) for n, g in single_gradients(model).items()}
    cuts = {n: BlockCut.of(tuple(g.shape[1:]), 6) for n, g in gradients.items()}
    assert [cut.width for cut in cuts.values()] == [4, 5]  # rows of 8 and of 20

    def passes(names):
        return iter([{n: gradients[n][:5] for n in names}, {n: gradients[n][5:] for n in names}])

    whole = FisherBlocks(cuts, passes, room=1 << 20, damping=0.1)
    all_rows: dict = {}
    pieces: list[tuple] = []
    whole.show_inverses(all_rows.__setitem__)
    small = FisherBlocks(cuts, passes, room=1000, damping=0.1)
    small.show_inverses(lambda rows, inverse: pieces.append((rows, inverse)))
    assert len(pieces) > len(cuts)
    assert small.damping == pytest.approx(whole.damping)
    for name in cuts:
        joined = torch.cat([inverse for rows, inverse in pieces if rows.name == name])
        (expected,) = (inverse for rows, inverse in all_rows.items() if rows.name == name)
        torch.testing.assert_close(joined, expected)


def test_what_was_shown_is_dropped_before_more_is_made(model):
    gradients = {n: torch.tensor(g) for n, g in single_gradients(model).items()}
    cuts = {n: BlockCut.of(tuple(g.shape[1:]), 6) for n, g in gradients.items()}
    shown: list[weakref.ref] = []

    def see(_, inverse):
        shown.append(weakref.ref(inverse))

    def passes(names):
        assert not any(earlier() is not None for earlier in shown)
        return iter([{n: gradients[n] for n in names}])

    FisherBlocks(cuts, passes, room=1000, damping=0.1).show_inverses(see)
    assert len(shown) > len(cuts)


def test_blocks_beyond_memory_are_refused():
    with pytest.raises(MachineError, match="blocks of 100 weights take"):
        plan_passes({"w": BlockCut.of((3, 200), 100)}, room=150_000)


def test_nothing_removed_is_nothing_changed():
    weights = torch.randn(2, 3, dtype=torch.float64)
    inverse = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    assert torch.equal(update_weights(weights, torch.ones(2, 3) > 0, inverse), weights)


@pytest.mark.filterwarnings("ignore:gradients are taken example by example")
def test_a_model_that_vmap_cannot_run_is_run_example_by_example(model):
    names = [name for name, _ in model.named_parameters()]
    infos = {n: TensorInfo(n, tuple(p.shape), p.dtype) for n, p in model.named_parameters()}
    windows = {name: Window.whole(info) for name, info in infos.items()}
    data = Batches(SPACE["batches"])
    branching = SPACE["Branching"]()
    for state in (model.state_dict(), {k: -v for k, v in model.state_dict().items()}):
        branching.load_state_dict(state)
        found = list(ExampleLosses(branching, windows, data).gradients(names, room=1 << 20))
        assert [len(rows["net.0.bias"]) for rows in found] == [7, 4]
        expected = single_gradients(branching)
        for name in WEIGHTS:
            joined = torch.cat([rows[name] for rows in found]).double().numpy()
            np.testing.assert_allclose(joined, expected[name], rtol=1e-4, atol=1e-6)


def test_gradients_hold_no_graph_of_weights_that_are_not_wanted(model):
    info = TensorInfo("net.0.weight", tuple(model.net[0].weight.shape), torch.float32)
    losses = ExampleLosses(model, {info.name: Window.whole(info)}, Batches(SPACE["batches"]))
    for found in losses.gradients([info.name], room=1 << 20):
        assert not found[info.name].requires_grad


def test_all_at_once_and_one_by_one_are_told_apart(tmp_path, model):
    argv = ("prune", "m.safetensors", "--sparsity", "0.4", "--method", "diagonal-fisher", "-f")
    said = "gradients are taken example by example"
    data = USER[2:]
    done = rebasin(*argv, "--model", "net.py:Branching", *data, cwd=tmp_path)
    assert (done.code, said in done.err) == (0, True), done.err
    done = rebasin(*argv, *USER, cwd=tmp_path)
    assert (done.code, said in done.err) == (0, False), done.err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("--sparsity", "0.5", "--block-size", "4"), 2, "--block-size says nothing to method"),
        (("--method", "block-fisher"), 2, "nothing says how much is pruned"),
        (
            ("--sparsity", "0.5", "--method", "block-fisher", "--damping", "0", *USER),
            2,
            "--damping 0: a matrix is inverted",
        ),
        (("--sparsity", "0.5", "--method", "block-fisher"), 2, "a model has to be run"),
        (
            ("--sparsity", "0.5", "--method", "block-fisher", *USER[:2]),
            2,
            "there is no data to run the model on",
        ),
        (
            ("--sparsity", "0.5", "--method", "block-fisher", "--max-memory", "1KB", *USER),
            4,
            "the model and the costs of its weights take 0.00 GB",
        ),
        (
            (
                *("--sparsity", "0.5", "--method", "block-fisher", *USER[:2]),
                *("--data", "net.py:unlabelled"),
            ),
            3,
            "net.py:unlabelled yields no targets",
        ),
        (
            (
                *("--sparsity", "0.5", "--method", "block-fisher"),
                *("--model", "net.py:Mute", "--data", "net.py:batches"),
            ),
            3,
            "no gradient reaches the weights",
        ),
    ],
)
def test_what_the_fisher_cannot_do_without_is_said(tmp_path, model, argv, code, message):
    done = rebasin("prune", "m.safetensors", *argv, cwd=tmp_path)
    assert (done.code, message in done.err) == (code, True), done.err
    assert not (tmp_path / "m.pruned.safetensors").exists()
