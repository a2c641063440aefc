"""The price of rank while it is learned: the penalty that each mode adds to the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..adapter.allocation import descending, share_out
from ..layers.adapters import Adapters
from ..layers.folding import alike
from ..layers.layer import Component
from ..layers.moments import together_to
from ..layers.sections import stacked
from ..ranks.rank import rank_loss, rate_for
from ..ranks.worth import CLIFF, NOISE, above_noise, drawn_on, mean_worth, position_worth, tempered
from .settings import FALLING

# the run in equal parts, with a review of all ranks between each two (section G of docs/results.md:
# other values)
REVIEWS = 10
# the share of the run at which the adapter has shrunk to the allowed size, and from which reviews
# cut off noise: there the learning rate begins to fall, and noise separates from signal
SIZED = 1 - FALLING
# the rank before rounding that stands for rank 0, for which nu would be infinite: one that rounds
# to 0
LAYER_GIVEN_UP = 0.3
CPU = torch.device("cpu")


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
    """Adaptive mode: lambda_rank * sum_l |ln nu_l - ln nu*_l|, a target nu* for each layer.

    A review estimates the worth to the loss of each singular direction of each layer (worth.py).
    The directions with the most worth for their parameters share the allowed size, noise left out:
    as many as a layer has among them, so high is its target rank. A layer that has to give rank
    back is turned to its singular basis first, so that it loses the least. Other layers are not
    turned, since a turn makes the optimizer's mean squares less exact. Only the first review turns
    every layer: from then on signal and noise are learned apart. The allowed size falls
    geometrically from the first size to the ceiling, between the first review and SIZED of the run.
    From then on noise makes room for signal: what it held of the size goes to layers that have
    none, whose ranks rise. A layer that has given noise back is judged no more: what is left is
    signal, and the gaps inside it say nothing.

    lambda_rank is `rank_weight` times the running mean of the loss before the first review, so that
    the scale of the loss does not matter.
    """

    STATE = ("index", "level", "first_size", "lowest", "targets", "cleaned", "lost")

    def __init__(self, adapters: Adapters, steps: int):
        self.adapters, self.steps = adapters, steps
        self.weight = adapters.settings.rank_weight
        self.every = max(1, steps // REVIEWS)
        self.first_size = float(adapters.parameters)
        self.level: float | None = None
        self.lowest = adapters.rate_parameter.detach().clone()
        self.targets: Tensor | None = None
        # the ranks at which layers gave noise back; None where one has not yet
        self.cleaned: list[int | None] = [None] * len(adapters.components)
        # the worths of the positions that each layer gave back last
        self.lost: list[list[float]] = [[]] * len(adapters.components)
        self.index = 0

    def penalty(self, loss: Tensor) -> Tensor:
        if self.targets is None:
            return torch.zeros_like(loss)
        distance = rank_loss(self.adapters.rate_parameter, self.targets)
        return self.weight * (self.level or 0.0) * distance

    def allowed(self) -> float:
        """Returns the number of parameters that are allowed at this step of the run."""
        return size_at(self.index / self.steps, self.first_size, self.adapters.ceiling)

    @torch.no_grad()
    def review(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
        """Keeps nu between its first value and its target, and sets new target ranks if a review is
        due after this step. loss: L_rec of the step.
        """
        self.index += 1
        if self.targets is None:
            self.level = loss if self.level is None else 0.95 * self.level + 0.05 * loss
        log_rates = self.adapters.rate_parameter
        # no rank is above its first one, or above what a review has added
        log_rates.copy_(log_rates.maximum(self.lowest))
        if self.targets is not None:  # and Adam's momentum takes no rank below its target
            log_rates.copy_(log_rates.minimum(self.targets))
        else:  # what the run started with is judged by reviews alone
            given = self.adapters.given_rows
            log_rates[given] = log_rates[given].minimum(self.lowest[given])
        time = self.index / self.steps
        if self.index % self.every or not 1 <= time * REVIEWS <= REVIEWS - 1:
            return
        adapters = self.adapters
        turns = adapters.singular_turns()
        components = list(adapters.components.values())
        # what is left is small, and asks for values: a GPU would be waited for in every layer
        worths = together_to(singular_worths(components, turns, optimizer), CPU)
        compared = [tempered(w) for w in worths]
        totals = torch.stack([w.sum() for w in compared]).tolist()
        adapters.worths = dict(zip(adapters.components, totals, strict=True))
        if time >= SIZED:
            chosen = self.without_noise(worths, compared)
        else:
            costs = [c.cost for c in components]
            chosen = share_out(compared, costs, self.allowed(), fill=True)
        for row, (worth, rank) in enumerate(zip(worths, chosen, strict=True)):
            if rank < len(worth):
                self.lost[row] = descending(worth)[rank:].tolist()
        if self.targets is not None:
            turns = {row: t for row, t in turns.items() if chosen[row] < components[row].rank}
        adapters.turn(turns, optimizer)
        wanted = torch.tensor(chosen, dtype=torch.float32).clamp(min=LAYER_GIVEN_UP)
        rates = rate_for(1.0, adapters.settings.quantile) / wanted
        self.targets = rates.log().to(adapters.device)
        self.lowest = self.lowest.minimum(self.targets)

    def without_noise(self, worths: list[Tensor], compared: list[Tensor]) -> list[int]:
        """Returns the rank of each layer where noise makes room for signal.

        Signal comes first. What it leaves of the size goes to layers without noise, for further
        positions. If they could use more than is left, the size is scarce; then noise stays, unless
        a further position would be worth CLIFF times as much.

        worths, compared: of each layer's positions, (rank,), as they are and tempered.
        """
        costs = [c.cost for c in self.adapters.components.values()]
        limits = self.signal(worths)
        signal = [w[:n] for w, n in zip(compared, limits, strict=True)]
        chosen = share_out(signal, costs, self.allowed(), fill=True)
        spare = self.allowed() - sum(c * n for c, n in zip(costs, chosen, strict=True))
        wishes = self.wishes(worths, compared, chosen, spare)
        if sum(c * len(w) for c, w in zip(costs, wishes, strict=True)) > spare:
            for row, (worth, limit) in enumerate(zip(compared, limits, strict=True)):
                if chosen[row] == limit < len(worth):
                    wishes[row] = worth[limit:] * CLIFF
        gained = share_out(wishes, costs, spare, fill=True)
        chosen = [rank + more for rank, more in zip(chosen, gained, strict=True)]
        for row, (worth, limit) in enumerate(zip(worths, limits, strict=True)):
            if chosen[row] <= limit < len(worth):
                self.cleaned[row] = limit
        return chosen

    def signal(self, worths: list[Tensor]) -> list[int]:
        """Returns the rank of each layer without noise. A layer that has given noise back is judged
        no more.
        """
        judged = above_noise(worths, self.adapters.settings.tolerance, self.lost)
        return [
            rank if clean is None else min(len(worth), clean)
            for worth, rank, clean in zip(worths, judged, self.cleaned, strict=True)
        ]

    def wishes(
        self, worths: list[Tensor], compared: list[Tensor], chosen: list[int], spare: float
    ) -> list[Tensor]:
        """Returns what further positions of each layer would be worth. A layer that has or had
        noise, whose last position is worth no more than noise, or that has just lost positions, has
        none; neither has any where a tolerance asks for small files.

        Nothing of it is measured: the layer's own worths are drawn on as they fall. A position that
        turns out as noise makes room at a later review.
        """
        found, small = [], self.adapters.settings.tolerance is not None
        least = NOISE * mean_worth(worths)
        for row, component in enumerate(self.adapters.components.values()):
            worth, room = compared[row], 0
            full = 0 < chosen[row] == len(worth) and self.cleaned[row] is None and not small
            if full and worths[row].min() >= least:
                room = min(component.max_rank - len(worth), int(spare / component.cost))
            found.append(drawn_on(worth, room) if room > 0 else worth[:0])
        return found


def size_at(time: float, first: float, last: float) -> float:
    """Returns the size that is allowed at this time of a run, 0 to 1: it falls from the first one
    at the first review to the last one at SIZED.
    """
    share = (time - 1 / REVIEWS) / (SIZED - 1 / REVIEWS)
    return last * max(1.0, first / last) ** (1 - min(1.0, max(0.0, share)))


def squared_gradients(optimizer: torch.optim.Optimizer, lora_up: Tensor, rank: int) -> Tensor:
    """Returns Adam's running mean of the squared gradients of lora_up's used positions, [out,
    rank]; zeros for a layer that no forward pass has used yet.
    """
    state = optimizer.state.get(lora_up, {})
    if not state:
        return torch.zeros_like(lora_up[:, :rank])
    return state["mean_square" if "mean_square" in state else "exp_avg_sq"][:, :rank]


def singular_worths(
    components: Sequence[Component],
    turns: Mapping[int, tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> list[Tensor]:
    """Returns singular_worth of every component, (rank,). turns: by the row of those that have an
    update. On a GPU, those of one shape are computed together.
    """
    worths: list[Tensor] = [torch.empty(0)] * len(components)
    kinds = [(c.fan_out, c.rank, row in turns) for row, c in enumerate(components)]
    for group in alike(kinds, components[0].lora_up.device):
        some = [components[row] for row in group]
        ups = stacked([c.lora_up[:, : c.rank] for c in some])
        squares = stacked([squared_gradients(optimizer, c.lora_up, c.rank) for c in some])
        turn = None
        if group[0] in turns:
            matrices, inverses = zip(*(turns[row] for row in group), strict=True)
            turn = stacked(matrices), stacked(inverses)
        for row, worth in zip(group, singular_worth(ups, squares, turn).unbind(), strict=True):
            worths[row] = worth
    return worths


def singular_worth(lora_up: Tensor, squares: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns position_worth of the singular directions of updates, [layers, rank].

    lora_up and its mean squared gradients, [layers, out, rank], are turned by `turn`, singular_turn
    of each; None, where there is no update yet, leaves them as they are.
    """
    if turn is not None:
        matrix, inverse = (t.to(lora_up.dtype) for t in turn)
        lora_up, squares = lora_up @ inverse, squares @ matrix.square().mT
    return position_worth(lora_up, squares)


PRICES = {"fixed": NoPrice, "paper": PaperPrice, "adaptive": AuctionPrice}
