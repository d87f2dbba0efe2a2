"""Models with complex numbers are traced, and proved in pairs of float64."""

import torch
from torch import nn

from rebasin_cli.models.module_weights import widen_model
from rebasin_cli.tensors.blocks import Block, Dim
from rebasin_cli.tracer.proof.proof import Trial
from tests.tracer.traps import WRONG, Net, check, harm, rows


def spectral():
    """Return a layer of a Fourier operator between two real ones."""

    def run(m, x):
        h = m.a(x).transpose(1, 2)
        f = torch.einsum("bim,iom->bom", torch.fft.rfft(h)[..., :3], m.w)
        return m.b(torch.fft.irfft(f, n=h.shape[-1]).transpose(1, 2))

    w = nn.Parameter(torch.randn(6, 7, 3, dtype=torch.complex64))
    return Net(run, a=nn.Linear(2, 6), w=w, b=nn.Linear(7, 1))


def test_a_complex_weight_between_real_ones_moves() -> None:
    text = "  a.{weight,bias}: [h]\n  w: [h, k, ~]\n  b.weight: [~, k]"
    given = rows(spectral(), 2, 8, 2)
    found = check(given, "h 6; k 7", text)
    assert found.share == 1
    assert harm(given, found, "h 6; k 7", text.replace("w: [h, k", "w: [~, k")) >= WRONG


def test_layers_that_are_complex_throughout_move() -> None:
    def run(m, x):
        h = m.a(torch.view_as_complex(torch.stack([x, x], -1)))
        return m.b(h * h.abs()).abs()

    dtype = torch.complex64
    net = Net(run, a=nn.Linear(5, 8, dtype=dtype), b=nn.Linear(8, 3, dtype=dtype))
    check(rows(net, 3, 5), "h 8", "  a.{weight,bias}: [h]\n  b.weight: [~, h]")


def test_a_table_of_rotations_keeps_its_imaginary_part() -> None:
    net = spectral()
    table = torch.polar(torch.ones(4), torch.arange(4.0))
    net.register_buffer("table", table.clone(), persistent=False)
    widen_model(net, torch.float64)
    assert {t.dtype for t in (*net.parameters(), *net.buffers())} == {
        torch.float64,
        torch.complex128,
    }
    assert torch.equal(net.get_buffer("table"), table.to(torch.complex128))


def test_a_change_of_complex_numbers_is_noticed() -> None:
    with torch.no_grad():
        trial = Trial(spectral(), [((torch.randn(2, 8, 2),), {})], ["output"])
        assert trial.notices(["w"])
        slopes = next(trial.slopes(["w"]))["w"]
    assert slopes.shape == (6, 7, 3, 2)
    assert bool((slopes[:, :, 1] != 0).all())


def test_complex_numbers_that_reach_nothing_are_known() -> None:
    net = spectral()
    net.idle = nn.Parameter(torch.randn(4, dtype=torch.complex64))
    with torch.no_grad():
        trial = Trial(net, [((torch.randn(2, 8, 2),), {})], ["output"])
        assert trial.ignores({"idle": [Block(0, (Dim(4, 2, "a"), Dim(2, 1)))]})
        last = Block(2 * 3 * 7 * 5, (Dim(7, 6, "a"), Dim(6, 1)))  # what reads the last unit of six
        assert not trial.ignores({"w": [last]})
