"""Gradient accumulation: a step in parts is the step of all its pictures."""

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.training.accumulation import Part, accumulate
from lora2_core.training.attention import EntropyRecord
from lora2_core.training.loss_scale import LossScale
from tests.toys import Planted

COUNT = 8  # pictures in a step


def losses_of(model: Planted, generator: torch.Generator):
    """Returns, for each picture of a step, what computes its loss."""
    seeds = torch.randint(2**30, (COUNT,), generator=generator).tolist()
    return [lambda s=seed: model.loss(torch.Generator().manual_seed(s)) for seed in seeds]


def parts_of(sizes: list[int]):
    """Returns a loss function whose steps have parts of these sizes."""

    def of(model: Planted):
        def loss_fn(generator: torch.Generator) -> list[Part]:
            each, parts, first = losses_of(model, generator), [], 0
            for size in sizes:
                some = each[first : first + size]
                parts.append(Part(lambda s=some: sum(f() for f in s) / COUNT, size / COUNT))
                first += size
            return parts

        return loss_fn

    return of


def together(model: Planted):
    return lambda generator: torch.stack([f() for f in losses_of(model, generator)]).mean()


def trained(make, mode: str, *, half: bool = False) -> tuple[list[float], list[torch.Tensor]]:
    model = Planted([1, 4, 2], width=16)
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode=mode, target_rank=4, max_rank=16))
    settings = lora2.TrainSettings(12, 1e-2, max_norm=1.0, optimizer="sgd")  # Adam enlarges errors
    losses = [s.loss for s in lora2.train(adapters, make(model), settings, half=half)]
    return losses, [up @ down for up, down in adapters.folded().values()]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
@pytest.mark.parametrize("sizes", [[8], [2, 2, 2, 2], [1] * 8, [5, 1, 2]], ids=str)
def test_a_step_in_parts_is_the_step_of_all_pictures(sizes: list[int], mode: str, half: bool):
    wanted, found = trained(together, mode, half=half), trained(parts_of(sizes), mode, half=half)
    # the Adam of nu enlarges what is rounded, and so do the turns to singular directions
    near = {"fixed": 1e-6, "paper": 1e-4, "adaptive": 2e-3}[mode]
    assert found[0] == pytest.approx(wanted[0], rel=near)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * near, atol=near)


def test_the_entropy_of_every_part_counts_by_its_share():
    """The gradient is that of the mean over all calls, each of as many pictures."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 4))
    queries, record = torch.randn(4, 3, 4), EntropyRecord()

    def part(some: torch.Tensor) -> Part:
        def loss() -> torch.Tensor:
            for q in some:
                record.record(q @ weight, q)
            return (some @ weight).square().mean() * len(some) / 4

        return Part(loss, len(some) / 4)

    def gradient(*parts: Part) -> torch.Tensor:
        weight.grad = None
        record.start()
        loss, share = accumulate(parts, LossScale(False), lambda: None, record, 0.5)
        (loss + share * 0.5 * record.take()).backward()
        return weight.grad.clone()

    whole = gradient(part(queries))
    torch.testing.assert_close(gradient(part(queries[:2]), part(queries[2:])), whole)
    torch.testing.assert_close(gradient(part(queries[:3]), part(queries[3:])), whole)


def test_a_part_that_fails_leaves_nothing_behind():
    """The step is then computed again from its beginning, with the same pictures."""
    model = Planted([1, 4, 2], width=16)
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode="fixed", target_rank=4))
    run = lora2.training.run.Run(adapters, lora2.TrainSettings(3, 1e-2))
    make, calls = parts_of([4, 4])(model), []

    def failing(generator: torch.Generator) -> list[Part]:
        first, last = make(generator)

        def fail() -> torch.Tensor:
            calls.append(1)
            if len(calls) == 2:  # in the second step
                raise MemoryError
            return last.loss()

        return [first, Part(fail, last.share)]

    losses = []
    for _ in range(2):
        try:
            for step in run.steps(failing):
                losses.append(step.loss)
        except MemoryError:
            assert len(losses) == 1
    assert losses == trained_plain(make_model=parts_of([4, 4]))


def trained_plain(make_model) -> list[float]:
    model = Planted([1, 4, 2], width=16)
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode="fixed", target_rank=4))
    return [s.loss for s in lora2.train(adapters, make_model(model), lora2.TrainSettings(3, 1e-2))]
