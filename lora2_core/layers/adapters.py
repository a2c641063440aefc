"""The adapted layers of a model, and the vector of their rates nu, which their ranks follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..adapter.kernels import as_kernels, as_point_kernels
from ..adapter.lora import RankedLora
from ..ranks.layer_ranks import lines_of
from ..ranks.rank import rate_for
from ..ranks.settings import RankSettings
from .joined import Frozen, frozen_of
from .layer import TILE, Component
from .moments import COPIES, Moments, lasting, moments_of
from .passes import Passes
from .rescaling import rescale
from .starting import allowed_parameters, fill, first_ranks, orthogonalise, starting_layers
from .targets import components, find_layers
from .turning import solved_turns


class Adapters:
    """The low-rank paths of a module's layers: `attach` makes them, `detach` removes them.

    `rate_parameter` is one fp32 vector (layers,): nu itself in paper mode, ln(nu) in adaptive mode
    (so that nu stays positive), unused in fixed mode. `started` is True where the layers go on from
    a finished adapter, and `given_rows` are the numbers of those that do. `speeds` are factors of
    the learning rate, by the names of layers that have another one.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        settings: RankSettings,
        seed: int,
        device: torch.device,
        start: RankedLora | None = None,
        speeds: Mapping[str, float] | None = None,
        frozen: Callable[[nn.Module], Frozen | None] = frozen_of,
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
        self.paths = Passes(self._list, list(self.components))
        self.cost = sum(c.cost for c in self._list)
        # how a run starts is computed on the CPU: a GPU would be waited for in every layer
        targets = [float(self.own_targets.get(n, settings.target_rank)) for n in layers]
        most = sum(c.cost * c.max_rank for c in self._list) / self.cost
        self.started = start is not None
        given = starting_layers(start, self.components) if start is not None else {}
        self.given_rows = [row for row, name in enumerate(self.components) if name in given]
        self._allowed = allowed_parameters(self.components, self.settings, self.own_targets)
        ranks = list(first_ranks(self.components, settings, self.own_targets, given).values())
        rates = rate_for(1.0, settings.quantile) / torch.tensor(ranks, dtype=torch.float32)
        self.max_ranks = torch.tensor([c.max_rank for c in self._list]).to(device)
        self.target_ranks = torch.tensor(targets).to(device)
        self._wanted = self.target_ranks.clamp(max=most)
        self.rate_parameter = nn.Parameter(self.mode.parameter_of(rates).to(device))
        self.worths: dict[str, float] = {}  # to the loss, by layer; empty before the first review
        self.weights: Tensor = torch.empty(0)
        self._set_ranks(torch.tensor(ranks).to(device), ranks)
        self.refresh()
        weights = self._lambda(rates, torch.tensor(ranks), self._wanted.cpu())
        for row, c in enumerate(self._list):
            c.initialise(0, c.rank, self._std(row, weights[row]), self.generator, random_up=False)
        if self.mode.competes:
            orthogonalise(self._list, alike=device.type != "cpu")
        for row, (name, component) in enumerate(self.components.items()):
            if name in given:
                fill(component, given[name], self.weights[row], orthogonal=self.mode.competes)
            if (layer := frozen(component.module)) is not None:
                component.join(layer, partial(self.paths.at, row), partial(self.paths.compute, row))
            else:
                component.hook(partial(self._weights_of, row))

    @property
    def rates(self) -> Tensor:
        """Returns nu of every layer, fp32 (layers,), differentiable."""
        return self.mode.rates_of(self.rate_parameter)

    @property
    def ranks(self) -> Mapping[str, int]:
        """Returns the rank that every layer has now, by name; another mapping where ranks move."""
        return self._ranks_by_name

    @property
    def parameters(self) -> int:
        """Returns the number of parameters inside the ranks."""
        return self._parameters

    @property
    def ceiling(self) -> float:
        """Returns how many parameters the settings allow: the budget, or every layer at its target
        rank, but no more than layers can have. In fixed mode it is their number now.
        """
        return self._allowed if self.mode.moves else float(self.parameters)

    @property
    def mean_ceiling(self) -> float:
        """Returns the ceiling as a mean rank, weighted by layer size."""
        return self.ceiling / self.cost

    def refresh(self, drop: Callable[[Tensor], Tensor] | None = None) -> None:
        """Computes the diagonals of Lambda, zero beyond the ranks, for the next forward and
        backward pass: `weights`, [layers, largest capacity], and `active`, its rows. drop: gives
        the factors that the rows have in this pass (dropout).
        """
        self.weights = self._lambda(self.rates, self._ranks, self._wanted)
        self.dropping = drop is not None
        used = self.weights if drop is None else self.weights * drop(self.weights)
        self._used: Tensor = used
        self._rows: tuple[Tensor, ...] = ()
        self.paths.renew(used, folds=self.mode.moves or self.dropping)

    def _lambda(self, rates: Tensor, ranks: Tensor, wanted: Tensor) -> Tensor:
        """Returns the diagonals of Lambda, [layers, largest capacity], zero beyond the ranks."""
        length = self.paths.sheets.longest
        inside = torch.arange(length, device=ranks.device) < ranks[:, None]
        mean = wanted[:, None] if self.own_targets else self.mean_ceiling
        return self.mode.weights(rates, ranks, mean, length) * inside

    def _weights_of(self, row: int) -> Tensor | None:
        """Returns the diagonal of a layer's Lambda; None where it is 1."""
        if not (self.mode.moves or self.dropping):
            return None
        if not self._rows:
            # all at once: the backward pass of single rows would fill a matrix each
            with torch.inference_mode(False), torch.enable_grad():
                self._rows = self._used.unbind()
        return self._rows[row]

    def _std(self, row: int, weights: Tensor) -> float:
        """Returns the standard deviation of a layer's new lora_down; weights: its row of Lambda."""
        c = self._list[row]
        return self.mode.std(self.settings.init, weights[: c.rank].detach(), c.fan_in)

    def _set_ranks(
        self, ranks: Tensor, values: list[int], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Sets the ranks, given as a tensor and as `values`, and allocates their positions."""
        self._ranks, self._followed = ranks, self.rate_parameter.detach().clone()
        self.paths.sheets.set_ranks(values, optimizer)
        self._ranks_by_name = dict(zip(self.components, values, strict=True))
        self._parameters = sum(c.rank * c.cost for c in self._list)

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
        if values != old:
            self._set_ranks(ranks, values, optimizer)
        else:
            self._followed = self.rate_parameter.detach().clone()
        self.refresh()
        moments = moments_of(optimizer)
        if self.mode.competes:
            self._keep_updates(before, [row for row, it_did in enumerate(moved) if it_did], moments)
        grown = []
        risen = any(c.rank > rank for c, rank in zip(self._list, old, strict=True))
        weights = self.weights.detach().cpu() if risen else self.weights
        for row, (component, rank) in enumerate(zip(self._list, old, strict=True)):
            if component.rank > rank:
                component.initialise(
                    rank,
                    component.rank,
                    self._std(row, weights[row]),
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
        rescale(self._list, rows, ratio, moments, self.paths.sheets.laid)

    def singular_turns(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Returns singular_turn's (turn, inverse), fp64, by the row of each layer that changes."""
        return solved_turns(self._list, self.weights.detach(), self.device)

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
            component = self._list[row]
            component.rotate(weights[row], turn, inverse, moments)
            for parameter in (component.lora_up, component.lora_down):
                if optimizer is not None and parameter in optimizer.state:
                    optimizer.state[parameter] = lasting(optimizer.state[parameter], parameter)

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

    @contextmanager
    def off(self) -> Iterator[None]:
        """Lets the module compute inside as if it had no paths."""
        for component in self._list:
            component.off = True
        try:
            yield
        finally:
            for component in self._list:
                component.off = False

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
    frozen: Callable[[nn.Module], Frozen | None] = frozen_of,
) -> Adapters:
    """Adds a low-rank path to layers of `module` and returns them.

    targets: a regular expression, which the dotted names of the Linear and Conv2d layers must
    match, or the layers by name. start: a finished adapter to go on from. The update is its update
    at first, without it zero; a layer's rank is then at least its rank there. speeds: factors of
    the learning rate, by name of the layers that have another one. device: where the adapter lies;
    None for the device of the first layer's weight. frozen: says how a layer computes, so that it
    and its path become one operation; where it says None, the path is added to what the layer
    returns. Raises ValueError when the regular expression is broken or matches no layer, or `start`
    doesn't fit.
    """
    layers = find_layers(module, targets) if isinstance(targets, str) else dict(targets)
    if device is None:
        weight = next(iter(layers.values())).weight
        device = weight.device if weight is not None else "cpu"
    return Adapters(
        layers, settings or RankSettings(), seed, torch.device(device), start, speeds, frozen
    )
