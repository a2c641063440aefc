"""The training loop: one generator, no user interface; the caller sees a Step after each update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapters import Adapters
from .attention import EntropyRecord
from .loss_scale import LossScale
from .pricing import PAPER_WEIGHT, PRICES
from .settings import BYTES_PER_PARAMETER, MEGABYTE, TrainSettings

RATE_TRAVEL = 15.0  # in adaptive mode, how far a log-rate can go in a run
DECAY = 0.5  # of the run: the learning rate falls to zero over its last half
PATIENCE = 5  # non-finite steps in a row before the run is given up


class TrainingDiverged(RuntimeError):
    """Loss or gradients stayed NaN or infinite; the adapter holds the values of the last good
    step.
    """


@dataclass(frozen=True)
class Step:
    """What one step did: index from 1, the loss L_rec, the ranks after it, their mean, and the size
    in MB.
    """

    index: int
    loss: float
    ranks: dict[str, int]
    mean_rank: float
    megabytes: float


def make_optimizer(adapters: Adapters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam over all lora_up and lora_down, and the rates in a group of their own; no weight decay
    (the method).
    """
    rate = adapters.settings.rate_learning_rate
    if rate is None:
        rate = RATE_TRAVEL / settings.steps if adapters.logarithmic else settings.learning_rate
    weights = [p for c in adapters.components.values() for p in (c.lora_up, c.lora_down)]
    groups = [{"params": weights, "lr": settings.learning_rate}]
    if adapters.settings.mode != "fixed":
        groups.append({"params": [adapters.rate_parameter], "lr": rate})
    return torch.optim.Adam(groups, foreach=True)


def forget_positions(
    optimizer: torch.optim.Optimizer, parameter: Tensor, start: int, stop: int, dim: int
) -> None:
    """Zeroes the optimizer's moments of rank positions [start, stop), which hold new values."""
    for moment in optimizer.state.get(parameter, {}).values():
        if torch.is_tensor(moment) and moment.shape == parameter.shape:
            moment.narrow(dim, start, stop - start).zero_()


def train(
    adapters: Adapters,
    loss_fn: Callable[[torch.Generator], Tensor],
    settings: TrainSettings | None = None,
    *,
    attention: EntropyRecord | None = None,
    half: bool = False,
) -> Iterator[Step]:
    """Trains attached adapters: `for step in train(...)`; leaving the loop early keeps what was
    learned.

    loss_fn(generator) -> scalar Tensor is L_rec of one batch; everything random in it must come
    from the generator (CPU, seeded), the global generators are not touched. `attention`: where the
    model's cross-attention calls are recorded, for L_attn. A step with a non-finite loss or
    gradient changes nothing; after 5 in a row TrainingDiverged is raised. `half`: the frozen model
    computes in fp16, so the loss is scaled.
    """
    settings = settings or TrainSettings()
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = make_optimizer(adapters, settings)
    price = PRICES[adapters.settings.mode](adapters, settings.steps)
    attention_weight = adapters.settings.attention_weight
    if attention_weight is None:
        attention_weight = PAPER_WEIGHT if adapters.settings.mode == "paper" else 0.0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    bad, scale = 0, LossScale(half)
    decay = settings.decay
    if decay is None:
        decay = 0.0 if adapters.settings.mode == "paper" else DECAY
    for index in range(1, settings.steps + 1):
        left = settings.steps + 1 - index
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(
            1.0, left / max(1.0, decay * settings.steps)
        )
        adapters.refresh()
        loss = loss_fn(generator)
        total = loss + price.penalty(loss)
        if attention is not None:
            total = total + attention_weight * attention.take()
        optimizer.zero_grad()
        scale.backward(total, parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        value = float(loss.detach())
        if torch.isfinite(norm) and torch.isfinite(total.detach()):
            bad = 0
            scale.step_was_good()
            optimizer.step()
            price.review(optimizer)
            for component, old, new in adapters.follow_rates(optimizer):
                forget_positions(optimizer, component.lora_down, old, new, 0)
                forget_positions(optimizer, component.lora_up, old, new, 1)
        elif not (torch.isfinite(total.detach()) and scale.overflowed()):
            bad += 1
            if bad >= PATIENCE:
                raise TrainingDiverged(
                    f"The loss was not a finite number for {PATIENCE} steps in a row "
                    f"(step {index}): "
                    "lower learning_rate, or check the latents."
                )
        ranks = adapters.ranks
        yield Step(
            index=index,
            loss=value,
            ranks=ranks,
            mean_rank=sum(ranks.values()) / len(ranks),
            megabytes=adapters.parameters * BYTES_PER_PARAMETER / MEGABYTE,
        )
