"""A user's own models: files, modules, functions and finished models become subjects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rebasin_cli.errors import MachineError, UsageError
from rebasin_cli.models.libraries.optional_packages import optional
from rebasin_cli.models.subject import Example
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.user.user_model import subject_of

NET = """
import torch
from torch import nn
from neighbour_of_net import WIDTH

print("a training script talks")


class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(width * 26 * 26, 10)

    def forward(self, x):
        return self.fc(self.drop(torch.relu(self.conv(x)).flatten(1)))

    class Inner(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)


class Needy(nn.Module):
    def __init__(self, width, depth):
        super().__init__()


class Broken(nn.Module):
    def __init__(self):
        raise ValueError("the moon is wrong")


class Picky(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)

    def forward(self, x):
        raise RuntimeError("never")


class Narrow(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)

    def forward(self, x):
        return super().forward(x[..., :2])


def make():
    return nn.LSTM(5, 7)


def feed():
    return torch.ones(4, 3, 28, 28)


def feed_names():
    return {"x": torch.ones(4, 3, 28, 28)}


def feed_twice():
    return [torch.ones(2, 3, 28, 28), (torch.ones(5, 3, 28, 28),)]


def feed_text():
    return "words"
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "neighbour_of_net.py").write_text("WIDTH = 8\n")
    path = tmp_path / "net.py"
    path.write_text(NET)
    return str(path)


def tensors(example: Example) -> list[torch.Tensor]:
    return [value for value in example.args if isinstance(value, torch.Tensor)]


def shapes(examples: tuple[Example, ...]) -> list[list[tuple[int, ...]]]:
    return [[tuple(value.shape) for value in tensors(example)] for example in examples]


def test_a_class_in_a_file_is_built_on_meta_in_eval_mode(net: str) -> None:
    found = subject_of_target(f"{net}:Net")
    with torch.device("meta"):
        model = found.build()
    assert not model.training
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}


def test_importing_a_file_leaves_the_search_path_and_the_output_alone(
    net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.path)
    subject_of_target(f"{net}:Net").build()
    assert sys.path == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["Net", "later"])
def test_a_file_that_extends_the_search_path_is_named_twice(
    net: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    away = Path(net).with_name("away") / "caller.py"
    away.parent.mkdir()
    away.write_text(
        f"import sys\nsys.path.append({str(Path(net).parent)!r})\nfrom net import Net\n"
        "def later():\n    import neighbour_of_net\n    return Net(neighbour_of_net.WIDTH)\n"
    )
    for _ in range(2):
        assert isinstance(subject_of_target(f"{away}:{name}").build(), nn.Module)


def test_a_model_that_was_typed_at_a_prompt_needs_no_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = type("Typed", (nn.Sequential,), {"__module__": "__main__"})
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert isinstance(subject_of(typed).build(), typed)
    assert isinstance(subject_of(typed()).build(), typed)


def test_the_side_that_a_flattened_map_needs_is_found(net: str) -> None:
    found = subject_of_target(f"{net}:Net")
    with torch.device("meta"):
        model = found.build()
    examples = found.examples(model)
    assert shapes(examples) == [[(2, 3, 28, 28)], [(3, 3, 28, 28)]]
    assert all(value.device.type == "cpu" for example in examples for value in tensors(example))


def test_arguments_reach_the_constructor(net: str) -> None:
    model = subject_of_target(f"{net}:Net", model_args={"width": 5}).build()
    assert model.get_parameter("conv.bias").shape == (5,)


def test_a_nested_class_a_function_and_an_installed_class_are_targets(net: str) -> None:
    assert isinstance(subject_of_target(f"{net}:Net.Inner").build(), nn.Linear)
    assert isinstance(subject_of_target(f"{net}:make").build(), nn.LSTM)
    arguments = {"in_features": 3, "out_features": 4}
    assert isinstance(subject_of_target("torch.nn:Linear", model_args=arguments).build(), nn.Linear)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Needy", {}, r"cannot be built without width, depth\nhint: .* --model-args '{\"width\": "),
        ("Net", {"widht": 3}, r"does not take widht\nit takes width\nhint: did you mean 'width'"),
        ("Nett", {}, r"has no 'Nett'\nhint: did you mean 'Net'"),
        ("feed", {"size": 3}, r"does not take size\nit takes no arguments"),
    ],
)
def test_what_cannot_be_called_is_refused_before_building(
    net: str, name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        subject_of_target(f"{net}:{name}", model_args=arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Broken", r"Broken cannot be built\nValueError: the moon is wrong \(.*net.py:\d+\)"),
        ("feed", "feed gives a Tensor, not a torch.nn.Module"),
    ],
)
def test_what_cannot_be_built_says_why(net: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        subject_of_target(f"{net}:{name}").build()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_file.py:Net", "no such file: no_such_file.py"),
        ("no_such_module_here:Net", "no module named 'no_such_module_here'\nhint: write file.py"),
        ("resnet", "'resnet' names no model\nhint: write file.py:Class"),
        ("hf:no/such/folder", "config.json cannot be read"),
    ],
)
def test_a_target_that_names_nothing_is_refused(target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        subject_of_target(target)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import no_such_package", MachineError, "needs the module 'no_such_package'"),
        ("def broken(:", UsageError, "cannot be imported\nSyntaxError"),
        ("raise SystemExit(3)", UsageError, "cannot be imported\nSystemExit: 3.*\nhint: what it"),
    ],
)
def test_a_file_that_does_not_run_says_why(
    tmp_path: Path, source: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(error, match=message):
        subject_of_target(f"{tmp_path / 'bad.py'}:Net")


def test_a_model_that_takes_no_guess_asks_for_inputs(net: str) -> None:
    found = subject_of_target(f"{net}:Picky")
    with pytest.raises(UsageError, match=r"no input was found(?s:.*)never(?s:.*)--input-shape"):
        found.examples(found.build())


def test_what_torch_refuses_is_said_with_the_line_that_asked_for_it(net: str) -> None:
    found = subject_of_target(f"{net}:Narrow")
    with pytest.raises(UsageError, match=r"RuntimeError(?s:.*)\(.*net\.py:\d+\)"):
        found.examples(found.build())


def test_an_absent_package_says_how_to_get_it() -> None:
    with pytest.raises(MachineError, match=r"needs the package no_such_zoo(?s:.*)pip install"):
        optional("no_such_zoo")


def test_a_given_shape_grows_by_one_in_the_second_example(net: str) -> None:
    found = subject_of_target(f"{net}:Net", input_shape=(4, 3, 28, 28))
    assert shapes(found.examples(found.build())) == [[(4, 3, 28, 28)], [(5, 3, 28, 28)]]


def test_a_given_shape_means_ids_where_an_embedding_comes_first() -> None:
    found = subject_of_target(
        "torch.nn:Embedding", model_args={"num_embeddings": 9, "embedding_dim": 4}
    )
    with_shape = subject_of_target(
        "torch.nn:Embedding",
        model_args={"num_embeddings": 9, "embedding_dim": 4},
        input_shape=(2, 7),
    )
    first = with_shape.examples(found.build())[0].args[0]
    assert isinstance(first, torch.Tensor)
    assert first.dtype == torch.int64
    assert first.shape == (2, 7)
    assert 0 < first.min() <= first.max() < 9


def test_a_shape_without_size_is_refused() -> None:
    with pytest.raises(UsageError, match="not the shape of an input: 2,0"):
        subject_of_target("torch.nn:Identity", input_shape=(2, 0))


@pytest.mark.parametrize(
    ("function", "batches"), [("feed", [4]), ("feed_names", [4]), ("feed_twice", [2, 5])]
)
def test_a_function_gives_the_inputs(net: str, function: str, batches: list[int]) -> None:
    found = subject_of_target(f"{net}:Net", input_function=f"{net}:{function}")
    examples = found.examples(found.build())
    values = [next(iter([*example.args, *example.kwargs.values()])) for example in examples]
    assert [value.shape[0] for value in values if isinstance(value, torch.Tensor)] == batches


def test_a_function_that_gives_no_tensors_is_refused(net: str) -> None:
    found = subject_of_target(f"{net}:Net", input_function=f"{net}:feed_text")
    with pytest.raises(UsageError, match="returns a str\nexpected a tensor, a tuple or a dict"):
        found.examples(found.build())


def test_shape_and_function_exclude_each_other(net: str) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        subject_of_target(f"{net}:Net", input_shape=(1,), input_function=f"{net}:feed")


def test_the_version_follows_sources_arguments_and_inputs(net: str) -> None:
    versions = [
        subject_of_target(f"{net}:Net").version,
        subject_of_target(f"{net}:Net", model_args={"width": 3}).version,
        subject_of_target(f"{net}:Net", input_shape=(2, 3, 28, 28)).version,
    ]
    Path(net).with_name("neighbour_of_net.py").write_text("WIDTH = 9\n")
    versions.append(subject_of_target(f"{net}:Net").version)
    assert len(set(versions)) == 4
    assert versions[-1] == subject_of_target(f"{net}:Net").version


class Looks(nn.Linear):
    """A model whose control flow needs values, which tensors on meta do not have."""

    def __init__(self) -> None:
        super().__init__(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum().item() else x


MODELS = {
    "linear": (lambda: nn.Linear(3, 4), (2, 3)),
    "looks at values": (Looks, (2, 3)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 64)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 3), (2, 3, 32, 32, 32)),
    "embedding": (lambda: nn.Embedding(9, 4), (2, 7)),
    "gru": (lambda: nn.GRU(5, 6), (2, 5, 5)),
    "cell": (lambda: nn.LSTMCell(5, 6), (2, 5)),
    "norm": (lambda: nn.BatchNorm2d(5), (2, 5, 6, 6)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2), (2, 5, 8)),
    "transformer": (lambda: nn.Transformer(8, 2, 1, 1, 16), (2, 5, 8)),
    "no activation": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), (2, 3072)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_inputs_are_guessed_and_run(name: str, device: str) -> None:
    factory, shape = MODELS[name]
    found = subject_of(factory)
    with torch.device(device):
        model = found.build()
    examples = found.examples(model)
    assert len(examples) == 2
    assert shapes(examples)[0][0] == shape
    assert shapes(examples)[0] != shapes(examples)[1]
    real = found.build()
    with torch.no_grad():
        for example in examples:
            real(*example.args, **example.kwargs)


def test_the_same_subject_gives_the_same_inputs() -> None:
    found = subject_of(lambda: nn.Linear(3, 4))
    first, second = (found.examples(found.build())[0].args[0] for _ in range(2))
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert torch.equal(first, second)
