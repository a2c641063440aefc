"""The adapted layers of a model, and the vector of their rates nu, which their ranks follow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from einops import pack, unpack
from torch import Tensor, nn

from ..adapter.kernels import as_kernels, as_point_kernels
from ..adapter.lora import RankedLora
from ..ranks.layer_ranks import lines_of
from ..ranks.rank import rate_for
from ..ranks.settings import RankSettings
from ..ranks.singular import singular_turn
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .layer import TILE, Component
from .moments import COPIES, Moments, moments_of
from .starting import fill, starting_layers
from .targets import components, find_layers

# layers whose small matrices are solved together: one copy to the CPU and one back for them all,
# while 32 pairs of 256 x 256 in fp64 are only 34 MB
SOLVED_AT_ONCE = 32


class Adapters:
    """The low-rank paths of a module's layers: `attach` makes them, `detach` removes them.

    `rate_parameter` is one fp32 vector (layers,): nu itself in paper mode, ln(nu) in adaptive mode
    (so that nu stays positive), unused in fixed mode. `started` is True where the layers go on from
    a finished adapter. `speeds` are factors of the learning rate, by the names of layers that have
    another one.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        settings: RankSettings,
        seed: int,
        device: torch.device,
        start: RankedLora | None = None,
        speeds: Mapping[str, float] | None = None,
    ):
        self.settings, self.speeds = settings.resolved(), dict(speeds or {})
        self.mode = settings.rules
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        tile = TILE if self.mode.moves else 1  # ranks that never move need no slack
        lines = lines_of(settings.layer_ranks, layers)
        self.components = components(layers, lines, settings.max_rank, device, tile)
        own = {name: line.wanted(moves=self.mode.moves) for name, line in lines.items()}
        self.own_targets = {name: rank for name, rank in own.items() if rank is not None}
        self._list = list(self.components.values())
        self.max_ranks = torch.tensor([c.max_rank for c in self._list], device=device)
        self.costs = torch.tensor([float(c.cost) for c in self._list], device=device)
        targets = [float(self.own_targets.get(n, settings.target_rank)) for n in layers]
        self.target_ranks = torch.tensor(targets, device=device)
        mean = settings.target_rank if self.own_targets else self.mean_ceiling
        starts = [float(settings.first_rank(mean, self.own_targets.get(n))) for n in layers]
        self.started = start is not None
        given = starting_layers(start, self.components) if start is not None else {}
        least = [float(given[n].rank) if n in given else 0.0 for n in layers]
        first = torch.tensor(starts, device=device).minimum(self.max_ranks)
        first = first.maximum(torch.tensor(least, device=device))
        rates = rate_for(1.0, settings.quantile) / first
        # where layers compete, auctions set the rates: no gradient moves them
        learned = not self.mode.competes
        self.rate_parameter = nn.Parameter(self.mode.parameter_of(rates), requires_grad=learned)
        # the worth of each layer to the loss; empty before the first review
        self.worths: dict[str, float] = {}
        self.weights: Tensor = torch.empty(0)
        self._set_ranks(first.long(), first.long().tolist())
        self.refresh()
        for row, (name, component) in enumerate(self.components.items()):
            component.initialise(0, component.rank, self._std(row), self.generator, random_up=False)
            if self.mode.competes:
                component.orthogonalise()
            if name in given:
                fill(component, given[name], self.weights[row], orthogonal=self.mode.competes)
            component.hook(partial(self._weights_of, row))

    @property
    def rates(self) -> Tensor:
        """Returns nu of every layer, fp32 (layers,), differentiable."""
        return self.mode.rates_of(self.rate_parameter)

    @property
    def ranks(self) -> dict[str, int]:
        """Returns the rank that every layer has now, by name."""
        return {name: c.rank for name, c in self.components.items()}

    @property
    def parameters(self) -> int:
        """Returns the number of parameters inside the ranks."""
        return sum(c.rank * c.cost for c in self._list)

    @property
    def ceiling(self) -> float:
        """Returns how many parameters the settings allow: the budget, or every layer at its target
        rank. In fixed mode it is their number now.
        """
        if not self.mode.moves:
            return float(self.parameters)
        if self.settings.budget_mb > 0:
            return self.settings.budget_mb * MEGABYTE / BYTES_PER_PARAMETER
        rank = self.settings.target_rank
        own = (self.components[n].cost * (r - rank) for n, r in self.own_targets.items())
        return rank * float(self.costs.sum()) + sum(own)

    @property
    def mean_ceiling(self) -> float:
        """Returns the ceiling as a mean rank, weighted by layer size."""
        return self.ceiling / float(self.costs.sum())

    def by_speed(self) -> dict[float, list[str]]:
        """Returns the names of the layers by their factor of the learning rate."""
        groups: dict[float, list[str]] = {}
        for name in self.components:
            groups.setdefault(self.speeds.get(name, 1.0), []).append(name)
        return groups

    def refresh(self) -> None:
        """Computes the diagonals of Lambda, zero beyond the ranks, for the next forward and
        backward pass: `weights`, [layers, largest capacity], and `active`, its rows.
        """
        length = max(c.capacity for c in self._list)
        positions = torch.arange(length, device=self.device)
        inside = positions < self._ranks[:, None]
        wanted = self.target_ranks[:, None] if self.own_targets else self.mean_ceiling
        self.weights = self.mode.weights(self.rates, self._ranks, wanted, length) * inside
        self.active = (
            self.weights.unbind()
        )  # the backward pass of single rows would fill a matrix each

    def _weights_of(self, row: int) -> Tensor | None:
        """Returns the diagonal of a layer's Lambda; None where it is 1."""
        return self.active[row] if self.mode.moves else None

    def _std(self, row: int) -> float:
        """Returns the standard deviation of a layer's new lora_down."""
        component = self._list[row]
        weights = self.weights[row, : component.rank].detach()
        return self.mode.std(self.settings.init, weights, component.fan_in)

    def _set_ranks(
        self, ranks: Tensor, values: list[int], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Sets the ranks, given as a tensor and as `values`, and allocates their positions."""
        self._ranks, self._followed = ranks, self.rate_parameter.detach().clone()
        for component, rank in zip(self._list, values, strict=True):
            component.rank = rank
            component.allocate(rank, optimizer)

    def take_ranks(self, ranks: list[int]) -> None:
        """Sets ranks that came with restored rates, and counts them as the ranks of these rates."""
        self._set_ranks(torch.tensor(ranks, device=self.device), ranks)
        self.refresh()

    def follow_rates(
        self, optimizer: torch.optim.Optimizer | None = None
    ) -> list[tuple[Component, int, int]]:
        """Moves every rank to the one that its rate nu means. Returns (component, old, new) of each
        layer whose rank rose.

        New positions get a random lora_down and a zero lora_up, so that the output does not jump
        (in paper mode both are random). Positions beyond a smaller rank are no longer used. In
        adaptive mode the update of the other positions stays as it is while nu moves.
        """
        if not self.mode.moves:
            return []
        with torch.no_grad():
            self.mode.keep_valid(self.rate_parameter)
        old, before = [c.rank for c in self._list], self.weights.detach()
        ranks = self.mode.ranks_of(self.rates, self.settings.quantile, self.max_ranks)
        changed = self.rate_parameter.detach() != self._followed
        values, moved = torch.stack([ranks, changed.long()]).tolist()  # one device sync
        if not any(moved):
            return []
        self._set_ranks(ranks, values, optimizer)
        self.refresh()
        moments = moments_of(optimizer)
        if self.mode.competes:
            self._keep_updates(before, [row for row, it_did in enumerate(moved) if it_did], moments)
        grown = []
        for row, (component, rank) in enumerate(zip(self._list, old, strict=True)):
            if component.rank > rank:
                component.initialise(
                    rank,
                    component.rank,
                    self._std(row),
                    self.generator,
                    random_up=self.mode.random_growth,
                )
                new = slice(rank, component.rank)
                for name, moment in moments(component.lora_down).items():
                    moment[new] = component.lora_down[new].detach() if name in COPIES else 0
                for name, moment in moments(component.lora_up).items():
                    moment[:, new] = component.lora_up[:, new].detach() if name in COPIES else 0
                grown.append((component, rank, component.rank))
        return grown

    @torch.no_grad()
    def _keep_updates(self, before: Tensor, rows: list[int], moments: Moments) -> None:
        """Rescales lora_up in the layers of these rows by the change of Lambda since `before`, so
        that the update stays; only of positions that were used before and are used now.
        """
        now = self.weights.detach()
        length = min(before.shape[1], now.shape[1])
        before, kept = before[:, :length], now[:, :length]
        ratio = torch.ones_like(now)
        ratio[:, :length] = torch.where((before > 0) & (kept > 0), kept / before, 1.0)
        for row in rows:
            component = self._list[row]
            component.rescale(ratio[row, : component.capacity], moments)

    def singular_turns(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Returns singular_turn's (turn, inverse) in fp64, by the row of each layer with an update.

        The matrices are small, so the CPU solves them faster than a GPU: some layers at a time,
        with one copy to the CPU and one back.
        """
        weights = self.weights.detach()
        solved: dict[int, tuple[Tensor, Tensor]] = {}
        rows = [row for row, component in enumerate(self._list) if component.rank]
        for first in range(0, len(rows), SOLVED_AT_ONCE):
            some = rows[first : first + SOLVED_AT_ONCE]
            on_device = [self._list[row].grams(weights[row]) for row in some]
            grams = dict(zip(some, _moved(on_device, torch.device("cpu")), strict=True))
            # a layer whose lora_down is zero has no singular basis
            turns = {r: torch.stack(singular_turn(*g)) for r, g in grams.items() if g[1].any()}
            moved = _moved(list(turns.values()), self.device)
            solved |= {r: tuple(t) for r, t in zip(turns, moved, strict=True)}
        return solved

    def turn(
        self,
        turns: Mapping[int, tuple[Tensor, Tensor]],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Turns layers to their singular basis, by the `singular_turns` of their rows, and the
        optimizer's moments with them; no output changes.
        """
        moments, weights = moments_of(optimizer), self.weights.detach()
        for row, (turn, inverse) in turns.items():
            self._list[row].rotate(weights[row], turn, inverse, moments)

    def folded(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns (lora_up, lora_down) of every layer by name, with Lambda folded in, in the shapes
        of a file: kernels of a convolution have four dimensions.
        """
        tensors = {}
        for row, (name, component) in enumerate(self.components.items()):
            up, down = component.folded(self.weights[row].detach())
            if component.kernel is not None:
                up, down = as_point_kernels(up), as_kernels(down, component.kernel)
            tensors[name] = (up, down)
        return tensors

    def detach(self) -> None:
        """Removes every path: the module is exactly as it was. The learned tensors stay here."""
        for component in self._list:
            component.unhook()


def attach(
    module: nn.Module,
    targets: str | Mapping[str, nn.Module] = r"to_(q|k|v|out\.0)$",
    settings: RankSettings | None = None,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    start: RankedLora | None = None,
    speeds: Mapping[str, float] | None = None,
) -> Adapters:
    """Adds a low-rank path to layers of `module` and returns them.

    targets: a regular expression, which the dotted names of the Linear and Conv2d layers must
    match, or the layers by name. start: a finished adapter to go on from. The update is its update
    at first, without it zero; a layer's rank is then at least its rank there. speeds: factors of
    the learning rate, by name of the layers that have another one. device: where the adapter lies;
    None for the device of the first layer's weight. Raises ValueError when the regular expression
    is broken or matches no layer, or `start` doesn't fit.
    """
    layers = find_layers(module, targets) if isinstance(targets, str) else dict(targets)
    if device is None:
        weight = next(iter(layers.values())).weight
        device = weight.device if weight is not None else "cpu"
    return Adapters(layers, settings or RankSettings(), seed, torch.device(device), start, speeds)


def _moved(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Returns the tensors on the device, moved with one copy for all of them."""
    if not tensors or tensors[0].device == device:
        return tensors
    flat, shapes = pack(tensors, "*")
    return unpack(flat.to(device), shapes, "*")
