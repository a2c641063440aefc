"""What the bench of training options computes beside the pack, and how it reads its rows."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.options.arms import ARMS, Run
from tests.benchmarks.options.papers import Rite, mask, preconditioned
from tests.benchmarks.options.rows import PAGE, Rows, change, report, written
from tests.benchmarks.ranks.pictures import TEST, TUNING


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


def test_the_page_says_what_is_stored():
    page = PAGE.read_text()
    assert page == written(page, Rows())


def made_up(tmp_path) -> Rows:
    """Two arms with a grid and one without, whose losses are known."""
    rows = Rows(tmp_path / "rows.jsonl")

    def add(arm: str, rate: float, subject: str, loss: float) -> None:
        measured = {"background": loss, "style": 2 * loss, "moved": 0.1, "seconds": 1.0}
        rows.add(Run(arm, rate, subject, 0), measured)

    for arm, best in (("adaptive, adamw", 1e-2), ("adaptive, LoRA+, ratio 4", 5e-3)):
        for rate in ARMS[arm].rates:
            for subject in TUNING:
                add(arm, rate, subject, 0.5 if rate == best else 0.6)
        for number, subject in enumerate(TEST):
            add(arm, best, subject, 0.1 * (1 + number) * (0.9 if "LoRA+" in arm else 1.0))
    return rows


def test_a_learning_rate_is_chosen_on_the_tuning_subjects(tmp_path):
    rows = made_up(tmp_path)
    assert rows.rate(ARMS["adaptive, LoRA+, ratio 4"]) == 5e-3
    assert rows.rate(ARMS["adaptive, rank_dropout 0.1"]) == 1e-2, "that of its mode"
    assert rows.rate(ARMS["fixed, adamw"]) is None
    rows.add(Run("adaptive, adamw", 1e-2, TUNING[0], 0), {"background": float("nan")})
    assert rows.tuned(ARMS["adaptive, adamw"])[1e-2] == float("inf")


def test_ratios_are_paired_by_subject(tmp_path):
    """Every loss is 0.9 times the plain one of its subject, so the interval is empty."""
    rows = Rows(made_up(tmp_path).path)  # as they are read again
    ratio = rows.against_plain(ARMS["adaptive, LoRA+, ratio 4"], "background")
    assert change(ratio) == "-10.0 % (-10.0 to -10.0)"
    assert "| adaptive, LoRA+, ratio 4 | -10.0 % (-10.0 to -10.0) |" in report(rows)


def test_processes_share_the_runs(tmp_path):
    rows, arms = made_up(tmp_path), list(ARMS.values())
    everything = rows.missing(arms, 1, (1, 1))
    parts = [rows.missing(arms, 1, (part, 3)) for part in (1, 2, 3)]
    assert sorted(sum(parts, []), key=str) == sorted(everything, key=str)
    assert Run("adaptive, rank_dropout 0.1", 1e-2, TEST[0], 0) in everything
    assert not [run for run in everything if run.arm == "adaptive, LoRA+, ratio 4"]
