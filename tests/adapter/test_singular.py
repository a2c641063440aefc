"""The singular basis from Gram matrices is that of an SVD, also where factors are badly scaled,
depend on each other, cancel, or are padded.
"""

import pytest
import torch

from lora2_core import LoraLayer

ROWS, COLUMNS, RANK = 60, 40, 16


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pairs() -> dict[str, LoraLayer]:
    up, down = draw(ROWS, RANK), draw(RANK, COLUMNS)
    half_up, half_down = draw(ROWS, RANK // 2), draw(RANK // 2, COLUMNS)
    scales = torch.logspace(-8, 8, RANK)

    def twice(second: float) -> LoraLayer:
        return LoraLayer(
            torch.cat([half_up, half_up], 1), torch.cat([half_down, half_down * second])
        )

    return {
        "plain": LoraLayer(up, down),
        "scales that cancel": LoraLayer(up * scales, down / scales[:, None]),
        "falling": LoraLayer(up * torch.logspace(0, -7, RANK), down),
        "the same twice": twice(1.0),
        "nearly nothing is left": twice(-0.999),
        "padded": twice(0.0),
        "nearly one column": LoraLayer(draw(ROWS, 1) + 1e-4 * up, draw(1, COLUMNS) + 1e-4 * down),
        "tiny": LoraLayer(up * 1e-30, down),
        "huge": LoraLayer(up * 1e30, down),
        "rank above the shape": LoraLayer(draw(9, 32), draw(32, 7)),
    }


@pytest.mark.parametrize("kind", pairs())
def test_it_is_that_of_an_svd(kind: str):
    layer = pairs()[kind]
    product = layer.up.double() @ layer.down.double()
    values = torch.linalg.svdvals(product)
    turned = layer.rotated()
    assert turned.rank <= min(product.shape)
    found = turned.up.double() @ turned.down.double()
    assert (found - product).norm() <= 1e-7 * product.norm()
    assert (turned.energy.sqrt() - values[: turned.rank]).abs().max() <= 1e-7 * values[0]
    cut = turned.first(max(1, turned.rank // 2))
    left = (product - cut.up.double() @ cut.down.double()).norm()
    assert left <= values[cut.rank :].square().sum().sqrt() + 1e-7 * values[0]


def test_nothing_stays_nothing():
    turned = LoraLayer(torch.zeros(4, 2), draw(2, 3)).rotated()
    assert not turned.up.any() and not turned.down.any() and turned.rank == 2
