"""The file that builds a joined model: how it names the class, and that it is Python."""

import ast
import builtins
from pathlib import Path

import pytest

from rebasin_cli.commands.merge.preserve_first.joined_source import Recipe, joined_source, literal
from rebasin_cli.errors import UsageError


def recipe(target, folder, **arguments):
    return Recipe(
        target=target,
        arguments=arguments,
        file=folder / "soup.py",
        checkpoint="soup.safetensors",
        parents=["a.pt", "b.pt"],
        join="two",
        kept=["one"],
        merged=[],
        weights=[0.25, 0.75],
    )


@pytest.mark.parametrize(
    ("target", "import_", "make", "argument"),
    [
        (
            "torchvision:resnet18",
            "import torchvision",
            "torchvision.models.get_model",
            '"resnet18"',
        ),
        ("timm:vit_tiny", "import timm", "timm.create_model", '"model_name": "vit_tiny"'),
        ("torch.nn:Linear", "import torch.nn", "torch.nn.Linear", '"bias": False'),
    ],
)
def test_a_class_of_a_package_is_imported(tmp_path, target, import_, make, argument):
    text = joined_source(recipe(target, tmp_path, bias=False))
    assert f"\n{import_}\n" in text
    assert f"    make = {make}\n" in text
    assert argument in text
    assert '"bias": False,' in text
    assert "importlib" not in text


def test_the_functions_of_the_file_are_all_that_it_calls(tmp_path):
    tree = ast.parse(joined_source(recipe("torch.nn:Linear", tmp_path)))
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    local = {"make", "change", "made", "parent"}
    assert called <= defined | imported | set(dir(builtins)) | local


def test_an_absolute_target_stays_absolute_and_a_relative_one_relative(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text("from torch import nn\nNet = nn.Linear\n")
    monkeypatch.chdir(tmp_path)
    folder = Path("out")
    text = joined_source(recipe("code/net.py:Net", folder))
    assert '(Path(__file__).resolve().parent / "../code/net.py").resolve()' in text
    assert str(tmp_path) not in text
    absolute = joined_source(recipe(f"{tmp_path}/code/net.py:Net", folder))
    assert f'SOURCE = Path("{tmp_path}/code/net.py")' in absolute


@pytest.mark.parametrize("target", ["hf:bert", "diffusers:unet"])
def test_a_folder_of_weights_is_refused_with_a_way_out(tmp_path, target):
    with pytest.raises(UsageError, match=f"a file that builds {target} cannot be written") as error:
        joined_source(recipe(target, tmp_path))
    assert "--model file.py:function" in str(error.value)


@pytest.mark.parametrize(
    "value", [None, True, 3, -0.5, 'with "quotes"\n', [1, [False, None]], {"a": {"b": [1.5]}}]
)
def test_json_values_are_written_as_python(value):
    assert ast.literal_eval(literal(value)) == value
