"""What decides ranks while they are learned: a penalty on the loss, or auctions, by mode."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter.allocation import share_out
from ..layers.adapters import Adapters
from ..ranks.rank import rank_loss, rate_for
from ..ranks.worth import above_noise, position_worth

# Figures: `bench-ranks --only G --constants` shows other values of each constant.

# auctions in a run, evenly spread; 40 cost more and bring nothing (section F of docs/results.md)
REVIEWS = 10
# the share of the run from which the adapter has the allowed size and noise is cut off: there the
# learning rate begins to fall (FALLING in settings.py), and noise separates from signal
SIZED = 0.5
# a layer's next position is thought to be worth this many times less than the one before it
FALL = 1.2
# the rank before rounding that stands for rank 0, for which nu would be infinite
LAYER_GIVEN_UP = 0.3


class NoPrice:
    """Fixed mode: ranks cost nothing, since they do not move."""

    # the attributes that change during a run, for checkpoints
    STATE: tuple[str, ...] = ()

    def __init__(self, adapters: Adapters, steps: int):
        self.zero = torch.zeros((), device=adapters.device)

    def penalty(self, loss: Tensor) -> Tensor:
        """Returns what is added to the loss L_rec of a step, a scalar."""
        return self.zero

    def review(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
        """Does what is due after each good step, whose loss L_rec it gets."""


class PaperPrice(NoPrice):
    """Paper mode: lambda_rank * sum_l |nu_l - nu*|, as published."""

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
    """Adaptive mode: auctions of one size set the rate nu of each layer, and so its rank.

    A review estimates the worth to the loss of each singular direction of each layer (worth.py),
    and the directions with the most worth for their parameters share the allowed size. It falls
    geometrically from the first size to the ceiling, which it reaches at SIZED of the run.

    Ranks rise too. A layer hopes for positions that it does not have yet, worth as much as its last
    one and falling by FALL. While the allowed size falls, the hopes of layers that never shrank
    compete with what is there. From SIZED on hopes get only the room that noise gave back. A layer
    that has given noise back is `settled`: it hopes for nothing, and is judged no more, since what
    is left is signal.

    A layer that has to give rank back is turned to its singular basis first, so that it loses the
    least. Other layers are not turned, since a turn makes the optimizer's mean squares less exact.
    Only the first review turns every layer: from then on signal and noise are learned apart.
    """

    STATE = ("index", "first_size", "shrunk", "settled")

    def __init__(self, adapters: Adapters, steps: int):
        super().__init__(adapters, steps)
        self.adapters, self.steps = adapters, steps
        self.every = max(1, steps // REVIEWS)
        self.first_size = float(adapters.parameters)
        self.shrunk: list[int] = []  # the rows of layers, as in `settled`
        self.settled: list[int] = []
        self.index = 0

    def allowed(self) -> float:
        """Returns the number of parameters that are allowed at this step of the run."""
        ceiling, left = self.adapters.ceiling, max(0.0, 1 - self.index / self.steps / SIZED)
        return ceiling * max(1.0, self.first_size / ceiling) ** left

    @torch.no_grad()
    def review(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
        """Holds an auction if one is due after this step, and sets the rates nu by it."""
        self.index += 1
        if self.index % self.every or self.index >= self.steps:
            return
        adapters = self.adapters
        turns = adapters.singular_turns()
        worths = self.worths(optimizer, turns)
        totals = torch.stack([w.sum() for w in worths]).tolist()
        adapters.worths = dict(zip(adapters.components, totals, strict=True))
        ranks = list(adapters.ranks.values())
        chosen = self.auction(self.without_noise(worths))
        if self.index > self.every:
            turns = {row: t for row, t in turns.items() if chosen[row] < ranks[row]}
        adapters.turn(turns, optimizer)
        wanted = torch.tensor(chosen, dtype=torch.float32).clamp(min=LAYER_GIVEN_UP)
        rates = rate_for(1.0, adapters.settings.quantile) / wanted
        adapters.rate_parameter.copy_(rates.log())

    def worths(
        self, optimizer: torch.optim.Optimizer, turns: Mapping[int, tuple[Tensor, Tensor]]
    ) -> list[Tensor]:
        """Returns the worths of each layer's positions, (rank,), in the basis of `turns`."""
        return [
            singular_worth(
                c.lora_up[:, : c.rank],
                squared_gradients(optimizer, c.lora_up, c.rank),
                turns.get(row),
            )
            for row, c in enumerate(self.adapters.components.values())
        ]

    def without_noise(self, worths: list[Tensor]) -> list[Tensor]:
        """Returns the worths without those of noise, from SIZED on; layers that had some are
        settled.
        """
        if self.index < SIZED * self.steps:
            return worths
        signal = list(worths)
        for row, rank in enumerate(above_noise(worths, self.adapters.settings.tolerance)):
            if rank < len(worths[row]) and row not in self.settled:
                signal[row] = worths[row][:rank]
                self.settled.append(row)
        return signal

    def auction(self, worths: list[Tensor]) -> list[int]:
        """Returns the rank of each layer that the allowed size has room for."""
        components = list(self.adapters.components.values())
        costs, allowed = [c.cost for c in components], self.allowed()
        hopes = [
            hoped(w, 0 if row in self.settled else c.max_rank)
            for row, (w, c) in enumerate(zip(worths, components, strict=True))
        ]
        if self.index < SIZED * self.steps:
            bids = [
                w if row in self.shrunk else torch.cat((w, hope))
                for row, (w, hope) in enumerate(zip(worths, hopes, strict=True))
            ]
            chosen = share_out(bids, costs, allowed)
            self.shrunk += [row for row, w in enumerate(worths) if chosen[row] < len(w)]
            return chosen
        chosen = share_out(worths, costs, allowed)
        if self.index + self.every >= self.steps:
            return chosen  # nothing would judge what grows now
        room = allowed - sum(r * cost for r, cost in zip(chosen, costs, strict=True))
        for row, cost in enumerate(costs):
            if chosen[row] < len(worths[row]) or cost > room:
                hopes[row] = hopes[row][:0]
        return [a + b for a, b in zip(chosen, share_out(hopes, costs, room), strict=True)]


def hoped(worth: Tensor, most: int) -> Tensor:
    """Returns the worths that a layer's next positions are thought to have: at most as many as it
    has, and `most` in all.
    """
    count = max(0, min(len(worth), most - len(worth)))
    falls = FALL ** torch.arange(1, count + 1, device=worth.device)
    return worth[-1:].expand(count) / falls


def squared_gradients(optimizer: torch.optim.Optimizer, lora_up: Tensor, rank: int) -> Tensor:
    """Returns Adam's running mean of the squared gradients of lora_up's used positions, [out,
    rank]; zeros for a layer that no forward pass has used yet.
    """
    state = optimizer.state.get(lora_up, {})
    return state["exp_avg_sq"][:, :rank] if state else torch.zeros_like(lora_up[:, :rank])


def singular_worth(lora_up: Tensor, squares: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns position_worth of the singular directions of an update, (rank,).

    lora_up and its mean squared gradients, [out, rank], are turned by `turn`, a singular_turn;
    None, where there is no update yet, leaves them as they are.
    """
    if turn is not None:
        matrix, inverse = (t.to(lora_up.dtype) for t in turn)
        lora_up, squares = lora_up @ inverse, squares @ matrix.square().T
    return position_worth(lora_up, squares)


PRICES = {"fixed": NoPrice, "paper": PaperPrice, "adaptive": AuctionPrice}
