"""Which format the name of a file stands for, alone and in a folder."""

from pathlib import PurePath

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoint.endings import file_ending, format_of, name_without_ending
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_checkpoint

ENDINGS = {
    ".safetensors": "safetensors",
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar"), "pt"),
    **dict.fromkeys((".tar", ".bin.tar", ".weights", ""), None),
}


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_format_is_that_of_the_ending_in_any_case(ending, case):
    path = PurePath("runs.pt") / f"Net.v1.2{case(ending)}" if ending else PurePath("Net")
    assert format_of(path) == format_of(path.name) == ENDINGS[ending]
    assert name_without_ending(path) + file_ending(path) == path.name
    if ENDINGS[ending]:
        assert file_ending(path) == case(ending)


@pytest.mark.parametrize("name", ["net.pth.tar", "net.PTH.TAR", "net.Safetensors", "net.BIN"])
def test_weights_in_a_folder_are_known_by_every_ending(tmp_path, name):
    save = save_file if format_of(name) == "safetensors" else torch.save
    (tmp_path / "m").mkdir()
    save({"a": torch.ones(2)}, tmp_path / "m" / name)
    with open_checkpoint(tmp_path / "m") as model:
        assert model.names() == ("a",)
        write_checkpoint(
            tmp_path / "out",
            [model.info("a")],
            model.load,
            model.layout,
            metadata={},
            overwrite=False,
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_safetensors_win_over_other_files_in_upper_case_too(tmp_path):
    torch.save({"b": torch.ones(1)}, tmp_path / "two-1-of-1.pt")
    save_file({"a": torch.ones(1)}, tmp_path / "one-1-of-1.SAFETENSORS")
    assert open_checkpoint(tmp_path).names() == ("a",)
