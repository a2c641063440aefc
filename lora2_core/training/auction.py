"""What a rank costs while it is learned: the penalty that each mode adds to the loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapter.allocation import share_out
from ..layers.adapters import Adapters
from ..ranks.rank import rank_loss, rate_for
from ..ranks.worth import above_noise, position_worth, tempered

REVIEWS = 10  # of all ranks in a run, evenly spread
FIRST, SIZED, LAST = 0.1, 0.2, 0.9  # of the run: first review, size reached, last review
JUDGED, SETTLED = 0.5, 100  # share of the run, and steps, from which noise is told from signal
LATE = 0.85  # of the run: from there on the learning rate is so low that noise lies still,
LATE_EVIDENCE = 0.5  # and so much of the evidence is enough
NEAR = 0.25  # of a log-rate: the pull to the target fades from there on, so that ranks come to rest
LAYER_GIVEN_UP = 0.3  # the continuous rank that stands for rank 0


class NoPrice:
    """Fixed mode: ranks cost nothing since they do not move."""

    STATE: tuple[str, ...] = ()  # the attributes that change while it is used

    def __init__(self, adapters: Adapters, steps: int):
        self.zero = torch.zeros((), device=adapters.device)

    def penalty(self, loss: Tensor) -> Tensor:
        return self.zero

    def review(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
        pass


class PaperPrice(NoPrice):
    """lambda_rank * sum_l |nu_l - nu*|, as published."""

    def __init__(self, adapters: Adapters, steps: int):
        settings = adapters.settings
        self.adapters = adapters
        self.weight = settings.rank_weight
        self.target = rate_for(settings.target_rank, settings.quantile)
        if adapters.own_targets:
            self.target = rate_for(1.0, settings.quantile) / adapters.target_ranks

    def penalty(self, loss: Tensor) -> Tensor:
        return self.weight * rank_loss(self.adapters.rates, self.target)


class AuctionPrice(NoPrice):
    """lambda_rank * sum_l |ln nu_l - ln nu*_l|: the paper's penalty with a target for each layer.

    At each review the worth to the loss of each singular direction of each layer is estimated
    (worth.py), and those that are worth most a parameter share the allowed size, without those that
    are only noise: their number is the layer's target rank. A layer that is to give rank back is
    turned to its singular basis, so that it gives the least; the others are left as they are, since
    a turn costs the optimizer some of what it knows. Only the first review turns all, so that
    signal and noise are learned apart from then on. The allowed size falls geometrically from the
    first size to the ceiling between FIRST and SIZED of the run.

    lambda_rank is `rank_weight` times the loss before the first review, so that
    the scale of the loss plays no part.
    """

    STATE = ("index", "level", "first_size", "lowest", "targets")

    def __init__(self, adapters: Adapters, steps: int):
        self.adapters, self.steps = adapters, steps
        self.weight = adapters.settings.rank_weight
        self.every = max(1, steps // REVIEWS)
        self.first_size = float(adapters.parameters)
        self.level: float | None = None
        self.lowest = adapters.rate_parameter.detach().clone()
        self.targets: Tensor | None = None
        self.index = 0

    def penalty(self, loss: Tensor) -> Tensor:
        if self.targets is None:
            return torch.zeros_like(loss)
        rates = self.adapters.rate_parameter
        distance = F.huber_loss(rates, self.targets, reduction="sum", delta=NEAR) / NEAR
        return self.weight * (self.level or 0.0) * distance

    def allowed(self) -> float:
        """Returns parameters at this step of the run."""
        ceiling = self.adapters.ceiling
        share = (self.index / self.steps - FIRST) / (SIZED - FIRST)
        return ceiling * max(1.0, self.first_size / ceiling) ** (1 - min(1.0, max(0.0, share)))

    @torch.no_grad()
    def review(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
        """Called after each good step with its loss; sets the layers' target ranks where a review
        is due.
        """
        self.index += 1
        if self.targets is None:
            self.level = loss if self.level is None else 0.95 * self.level + 0.05 * loss
        rates = self.adapters.rate_parameter
        rates.copy_(rates.maximum(self.lowest))  # no rank grows beyond its first
        if self.targets is not None:  # no momentum carries a rank past its target
            rates.copy_(rates.minimum(self.targets))
        time = self.index / self.steps
        if self.index % self.every or not FIRST <= time <= LAST:
            return
        adapters = self.adapters
        turns = adapters.singular_turns()
        components = list(adapters.components.values())
        worths = [
            singular_worth(
                c.lora_up[:, : c.rank],
                squared_gradients(optimizer, c.lora_up, c.rank),
                turns.get(row),
            )
            for row, c in enumerate(components)
        ]
        compared = [tempered(w) for w in worths]
        totals = torch.stack([w.sum() for w in compared]).tolist()
        adapters.worths = dict(zip(adapters.components, totals, strict=True))
        ranks = adapters.ranks.values()
        if time >= JUDGED and self.index >= SETTLED:
            evidence = 1.0 if time < LATE else LATE_EVIDENCE
            ranks = above_noise(worths, adapters.settings.tolerance, evidence)
        worths = [w[:r] for w, r in zip(compared, ranks, strict=True)]
        chosen = share_out(worths, [c.cost for c in components], self.allowed())
        if self.targets is not None:
            turns = {row: t for row, t in turns.items() if chosen[row] < components[row].rank}
        adapters.turn(turns, optimizer)
        wanted = torch.tensor(chosen, dtype=torch.float32).clamp(min=LAYER_GIVEN_UP)
        rates = rate_for(1.0, adapters.settings.quantile) / wanted
        self.targets = rates.log().to(adapters.device)


def squared_gradients(optimizer: torch.optim.Optimizer, lora_up: Tensor, rank: int) -> Tensor:
    """Returns Adam's running mean of the squared gradient of the used positions, [out, rank]; zeros
    for a layer that no forward pass has used yet.
    """
    state = optimizer.state.get(lora_up, {})
    return state["exp_avg_sq"][:, :rank] if state else torch.zeros_like(lora_up[:, :rank])


def singular_worth(lora_up: Tensor, squares: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns position_worth of the singular directions of an update, (rank,): of lora_up and its
    squared gradients [out, rank] once they are turned; as they are where there is no update yet.
    """
    if turn is not None:
        there, inverse = (t.to(lora_up.dtype) for t in turn)
        lora_up, squares = lora_up @ inverse, squares @ there.square().T
    return position_worth(lora_up, squares)


PRICES = {"fixed": NoPrice, "paper": PaperPrice, "adaptive": AuctionPrice}
