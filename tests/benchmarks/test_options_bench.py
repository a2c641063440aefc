"""What the bench of training options computes beside the pack, and how it reads its rows."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.options.papers import Rite, mask, preconditioned


def planted(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Two factors of rank 3, a change of basis, and the update that is to be learned, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (12, 3), (3, 8), (3, 3), (12, 8)
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


def learned(up, down, wanted, optimizer, steps: int = 6) -> torch.Tensor:
    """The product of two factors after some steps toward an update."""
    up, down = (torch.nn.Parameter(p.clone()) for p in (up, down))
    made = optimizer([up, down])
    for _ in range(steps):
        made.zero_grad()
        (up @ down - wanted).square().sum().backward()
        made.step()
    return (up @ down).detach()


def rite(weights: list) -> Rite:
    return Rite(weights, 0.05, (0.9, 0.99), 0.1)


def adam(weights: list) -> torch.optim.Adam:
    return torch.optim.Adam(weights, 0.05)


@pytest.mark.parametrize(("optimizer", "same"), [(rite, True), (adam, False)])
def test_only_rite_learns_the_same_in_every_basis(optimizer, same: bool):
    up, down, basis, wanted = planted()
    torch.set_default_dtype(torch.float64)
    try:
        plain = learned(up, down, wanted, optimizer)
        turned = learned(up @ basis, torch.linalg.inv(basis) @ down, wanted, optimizer)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(plain, turned, rtol=1e-4, atol=1e-4) == same
    before, after = ((p - wanted).norm() for p in (up @ down, plain))
    assert after < before


def test_the_preconditioned_direction_is_the_same_in_every_basis():
    """To first order: the change of the product, up @ d(down) + d(up) @ down."""
    up, down, basis, gradient = (t.float() for t in planted(1))

    def change(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        of_up = preconditioned(gradient @ down.mT, down.mT)
        of_down = preconditioned(gradient.mT @ up, up).mT
        return of_up @ down + up @ of_down

    other = change(up @ basis, torch.linalg.inv(basis) @ down)
    torch.testing.assert_close(other, change(up, down), rtol=1e-2, atol=1e-2)


def test_fewer_positions_are_trained_the_more_noise_there_is():
    ranks = torch.tensor([8.0, 3.0, 0.0])
    counts = [mask(ranks, 16, time).sum(1).tolist() for time in (0.0, 0.5, 1.0)]
    assert counts == [[8, 3, 0], [6, 2, 0], [4, 2, 0]]
    assert mask(ranks, 16, 0.5)[0].tolist() == [True] * 6 + [False] * 10
