"""Files as broken disks and evil people leave them: read, or refused in our own words."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.errors import RebasinError
from tests.fuzz.targets import TARGETS, feed

# What makes parsers stumble: brackets, numbers and texts of odd kinds, paths, tags of YAML, and
# ten thousand brackets, which are deeper than Python's stack.
TOKENS = [
    *(b"[", b"]", b"{", b"}", b'"', b":", b", ", b"(", b")", b"*", b"~", b"&a ", b"*a", b"- "),
    *(b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"9" * 20, b"9" * 5000, b"true"),
    *(b"\xff", b"\0", b"\n", b"\r", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800"),
    *(b"../../x", b"/etc/passwd", b"!!python/object/apply:os.system [exit]"),
    *(b"[" * 10_000, b'{"a":' * 10_000),
]


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw a good input with some places replaced, cut out, doubled, or filled with a token."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 4, 30])))
        new = draw(st.sampled_from(TOKENS) | st.binary(max_size=3) | st.just(2 * data[start:stop]))
        data = data[:start] + new + data[stop:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_good_input_is_read(name: str, tmp_path: Path) -> None:
    target, seeds = TARGETS[name]
    for seed in seeds:
        target(seed, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_changed_is_read_or_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(name)

    @settings(max_examples=40)
    @given(data=mutations(TARGETS[name][1]))
    def check(data: bytes) -> None:
        feed(name, data, folder)

    check()
    assert [*folder.parent.glob("x*")] == []  # nothing is written where a name points


@pytest.mark.parametrize("name", [n for n in TARGETS if n not in ("torch", "expression")])
def test_what_is_deeper_than_the_stack_is_refused(name: str, tmp_path: Path) -> None:
    feed(name, b'{"a":' * 100_000, tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * (1 << 24) + b".")
        archive.writestr("archive/version", b"3")
    with pytest.raises(RebasinError, match="unpacks to more than 100 times its size"):
        TARGETS["torch"][0](path.read_bytes(), tmp_path)


def _flipped(data: bytes) -> bytes:
    """Return a zipped file whose pickle has another last instruction than its checksum says."""
    end = data.index(b"PK\x07\x08" if b"PK\x07\x08" in data else b"archive/", 60)
    stop = data.rindex(b"u.", 0, end) + 1
    return data[:stop] + b"\x16" + data[stop + 1 :]


def _endless(data: bytes) -> bytes:
    """Return an old file whose objects begin with a text of 2**60 bytes, it says."""
    start = data.index(b"}q\0(") + 1
    return data[:start] + b"\x96" + (1 << 60).to_bytes(8, "little") + data[start:]


@pytest.mark.parametrize(("seed", "damage"), [(0, _flipped), (2, _endless)])
def test_a_damaged_pickle_is_refused(
    seed: int, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    target, seeds = TARGETS["torch"]
    with pytest.raises(RebasinError, match="not a readable PyTorch file"):
        target(damage(seeds[seed]), tmp_path)
