"""What the layers' paths compute with in a pass: made for all layers at once when the first of them
asks. The gradients of all layers come back at once too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .folding import Sheet, path_dtype
from .gradients import Fold
from .joined import JoinedLinear, Lent, Pair
from .layer import Component
from .several import Several
from .sharing import Ahead, Given, Watch
from .sheets import Sheets
from .unit import Unit

KNOWN = 4  # times the layers: places in Lambda that are remembered


class Pass:
    """What the paths of all layers compute with until Lambda or a parameter changes.

    origin: stands for all parameters in the graph. sheets: made so far. pairs: by layer, with the
    state of its parameters, None where nobody changes them in the pass. inputs: that layers share,
    by unit and whether there is a graph, until all of its layers have had their part. ahead: what
    layers gave that were not asked yet.
    """

    def __init__(self, begun: Callable[[list[Sheet]], Tensor]):
        self.sheets: list[Sheet] = []
        self.pairs: dict[int, tuple[tuple | None, Sheet, Pair]] = {}
        self.inputs: dict[tuple[Unit, bool], Given] = {}
        self.ahead: dict[int, Ahead] = {}
        self.origin = begun(self.sheets)


class Passes:
    """Gives every layer what its path computes with, made for all layers at once when the first of
    them asks, and kept until `forget`, or until a parameter has changed.

    groups: the layers that get the same input, by their numbers; None until they are known. A run
    that goes on must know them, since rounding depends on them.
    """

    def __init__(self, components: Sequence[Component], names: Sequence[str] = ()):
        self.components, self.folds = components, False
        self.sheets = Sheets(components)
        # the module of each layer, where it is one of its own: what that calls is in one block
        parts = [name.rpartition(".") for name in names]
        self.owners = [owner if not leaf.isdigit() else None for owner, _, leaf in parts]
        self.weights: Tensor = torch.empty(0)  # Lambda, [layers, at least every capacity]
        self.dtypes: list[torch.dtype | None] = [None] * len(components)
        self.groups: list[list[int]] | None = None
        self.watch = Watch()
        self.indices: dict[tuple, Tensor] = {}
        self.current: Pass | None = None
        # whether torch.autograd.grad can be asked for the gradients of parameters, and these may be
        # changed by others in a pass
        self.by_autograd = True
        self.known_units: tuple[list[int], object, list[list[int]]] = [], None, []

    def forget(self) -> None:
        """Frees the tensors; they are made again when they are needed."""
        if self.groups is None and self.watch.groups:
            self.groups = self.watch.found()
        self.current = None

    def renew(self, weights: Tensor, *, folds: bool) -> None:
        """Takes the Lambda of the next pass. folds: whether any of it is not 1."""
        self.forget()
        self.weights, self.folds = weights, folds

    def share_nothing(self) -> None:
        """Computes every layer alone from the next pass on."""
        self.groups = []
        self.forget()

    @contextmanager
    def without_autograd(self) -> Iterator[None]:
        """Lets passes inside write gradients of parameters to their `grad` alone. Nobody changes
        parameters inside but before `renew`.
        """
        self.by_autograd = False
        self.forget()
        try:
            yield
        finally:
            self.by_autograd = True
            self.forget()

    @contextmanager
    def during(self, one: Pass | None) -> Iterator[None]:
        """Computes with this pass inside, with one of its own for None."""
        before, self.current = self.current, one
        try:
            yield
        finally:
            self.current = before

    def begun(self) -> Pass:
        """Returns the pass that layers compute with now."""
        if self.current is None:
            with torch.inference_mode(False), torch.enable_grad():
                self.current = Pass(self.origin)
        return self.current

    def origin(self, sheets: list[Sheet]) -> Tensor:
        """Returns the scalar that stands for all parameters in the graph of a pass."""

        def used() -> None:
            if self.current is not None and self.current.sheets is sheets:
                self.forget()

        parameters = self.sheets.parameters
        weights = self.weights if self.folds else None
        # hooks of others are called by autograd
        hooked = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters)
        asked = self.by_autograd or hooked
        if asked:
            into, given = [], parameters
            for whole in self.sheets.laid:
                whole.apart = True
        else:
            into, given = parameters, [parameters[0].new_zeros((), requires_grad=True)]
        # elsewhere than in training another graph of this pass may need them yet
        ended = None if self.by_autograd else self.sheets.keep
        return Fold.apply(sheets, used, ended, into, weights, *given)

    def of(self, row: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (lora_down with Lambda, lora_up) of a layer for inputs like x, in the dtype that
        its path computes in; differentiable where gradients are computed.
        """
        pair = self.pair(row, path_dtype(x))
        return Lent.apply(pair.origin, pair)

    def at(self, row: int, x: Tensor) -> Pair:
        """Returns the pair of a layer for its input x."""
        pair = self.pair_for(row, x)
        return Pair(pair.unit, pair.index, self.begun().origin)

    def pair_for(self, row: int, x: Tensor) -> Pair:
        """Returns the pair of a layer for its input x, without the origin of this pass."""
        pair = self.entry(row, path_dtype(x))
        if self.groups is None and torch.is_grad_enabled() and self.components[row].kernel is None:
            self.watch.see(row, x)
        return pair

    def compute(self, row: int, x: Tensor) -> Tensor:
        """Returns what a layer and its path make of x."""
        now = self.current
        if now is not None and row in now.ahead and torch.is_grad_enabled():
            ahead = now.ahead.pop(row)
            output = ahead.outputs.pop(row)
            if ahead.suits(x) and self.is_current(row, now.pairs[row][0]):
                return output
            return self.components[row].alone(self.pair_for(row, x), self.begun().origin, x)
        there = None if now is None or self.groups is None else now.pairs.get(row)
        if there is not None and there[0] is None and self.dtypes[row] is x.dtype:
            pair = there[2]  # nothing else needs to be looked at, in hundreds of calls a step
        else:
            pair = self.pair_for(row, x)
        if len(pair.unit.rows) > 1:
            return self.of_several(pair, x)
        return self.components[row].alone(pair, self.begun().origin, x)

    def pair(self, row: int, dtype: torch.dtype) -> Pair:
        """Returns the pair of a layer."""
        pair = self.entry(row, dtype)
        return Pair(pair.unit, pair.index, self.begun().origin)

    def entry(self, row: int, dtype: torch.dtype) -> Pair:
        """Returns the pair of a layer without the origin of this pass."""
        now = self.current or self.begun()
        if (there := now.pairs.get(row)) is not None:
            if self.dtypes[row] != dtype:
                del now.pairs[row]
            elif self.is_current(row, there[0]):
                return there[2]
            else:
                self.forget()
        for other in self.with_same_input(row):
            self.dtypes[other] = dtype
        self.make(dtype)
        return self.begun().pairs[row][2]

    def state(self, row: int) -> tuple:
        """Returns what changes when a layer's parameters do."""
        down, up = self.components[row].lora_down, self.components[row].lora_up
        return id(down), down._version, id(up), up._version

    def is_current(self, row: int, state: tuple | None) -> bool:
        """Returns whether a layer's parameters are as they were in this state."""
        return state is None or state == self.state(row)

    def make(self, dtype: torch.dtype) -> None:
        """Makes the tensors of all layers that are known to compute in this dtype."""
        now = self.begun()
        rows = [
            row
            for row, component in enumerate(self.components)
            if self.dtypes[row] == dtype and component.rank and row not in now.pairs
        ]
        # a preview may ask first, and training then uses it
        with torch.inference_mode(False), torch.no_grad():
            weights = self.weights.detach().reshape(-1) if self.folds else None
            units, width = self.units(rows), self.weights.shape[-1]
            sheet = self.sheets.sheet(units, dtype, self.index, width, folds=self.folds)
            sheet.fill(weights)
        now.sheets.append(sheet)
        for row, pair in sheet.pairs.items():
            now.pairs[row] = self.state(row) if self.by_autograd else None, sheet, pair

    def with_same_input(self, row: int) -> list[int]:
        """Returns a layer and those that get the same input."""
        return next((group for group in self.groups or () if row in group), [row])

    def units(self, rows: list[int]) -> list[list[int]]:
        """Returns these layers, those that get the same input together and the others alone."""
        if self.known_units[0] == rows and self.known_units[1] is self.groups:
            return self.known_units[2]
        wanted = set(rows)
        groups = [[row for row in group if row in wanted] for group in self.groups or ()]
        alone = wanted.difference(*groups)
        units = sorted([group for group in groups if group] + [[row] for row in alone])
        self.known_units = rows, self.groups, units
        return units

    def index(self, rows: list[int], lengths: list[int]) -> Tensor:
        """Returns where in Lambda the positions of layers of these lengths are."""
        width = self.weights.shape[1]
        key = width, tuple(rows), tuple(lengths)
        if key not in self.indices:
            if len(self.indices) >= KNOWN * len(self.components):  # of capacities of before
                self.indices.clear()
            both = zip(rows, lengths, strict=True)
            parts = [torch.arange(length) + row * width for row, length in both]
            self.indices[key] = torch.cat(parts).to(self.weights.device)
        return self.indices[key]

    def run(self, unit: Unit, index: int) -> tuple[int, int]:
        """Returns which layers of a unit, from one to before another, compute together with this
        one: those that the same module calls.
        """
        if (found := unit.runs.get(index)) is not None:
            return found
        rows, start, stop = unit.rows, index, index + 1
        owner = self.owners[rows[index]] if self.owners else None
        if owner is not None:
            while start > 0 and self.owners[rows[start - 1]] == owner:
                start -= 1
            while stop < len(rows) and self.owners[rows[stop]] == owner:
                stop += 1
        unit.runs[index] = start, stop
        return start, stop

    def of_several(self, pair: Pair, x: Tensor) -> Tensor:
        """Returns the output of a layer in a unit of several. Where there is a graph, those next to
        it compute with it, and their outputs wait.
        """
        unit, index, graph, now = pair.unit, pair.index, torch.is_grad_enabled(), self.begun()
        component, given = self.components[unit.rows[index]], None
        if not (graph and x.requires_grad) and (given := self.given(pair, x)) is None:
            return component.alone(pair, now.origin, x)
        if given is not None and not graph and component.frozen is not None:
            return JoinedLinear.compute(x, pair, component.frozen, given.hidden[index])[0]
        start, stop = self.run(unit, index)
        rows = unit.rows[start:stop]
        frozen = [self.components[row].frozen for row in rows]
        if None in frozen:
            return component.alone(pair, now.origin, x)
        over: list[bool] = []
        made = Several.apply(x, now.origin, unit, start, frozen, given, over)
        outputs = dict(zip(rows, made, strict=True))
        output = outputs.pop(unit.rows[index])
        if outputs:
            now.ahead |= dict.fromkeys(outputs, Ahead(x, outputs, over))
        return output

    def given(self, pair: Pair, x: Tensor) -> Given | None:
        """Returns x as the input of all layers of a unit; None where this layer had its part, or
        they got something else.
        """
        unit, graph, now = pair.unit, torch.is_grad_enabled(), self.begun()
        given = now.inputs.get((unit, graph))
        if given is None:
            given = now.inputs[unit, graph] = Given(x, unit)
            if graph:
                now.pairs[unit.rows[0]][1].pending.append(given.finish)
        if not given.suits(x) or pair.index not in given.left:
            return None
        both = self.run(unit, pair.index) if graph else (pair.index, pair.index + 1)
        given.left.difference_update(range(*both))
        if not given.left:
            del now.inputs[unit, graph]
        return given
