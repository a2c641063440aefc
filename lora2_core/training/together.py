"""One step of an optimizer for parameters that lie behind each other (layers/wholes.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..layers.wholes import Whole


class Together:
    """Lets an optimizer take parameters that lie behind each other for one where they are trained
    alike. What it keeps of a member is then a part of what it keeps of the whole.

    elementwise: whether the optimizer treats every value as if it were alone.
    """

    def __init__(
        self, optimizer: Optimizer, laid: Callable[[], Sequence[Whole]], *, elementwise: bool
    ):
        self.optimizer, self.laid, self.elementwise = optimizer, laid, elementwise
        self.states: WeakKeyDictionary[Whole, dict] = WeakKeyDictionary()
        self.apart: WeakSet[Whole] = WeakSet()  # whose members are not trained alike
        self.shared = False  # whether parameters ever had a count of steps together

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Puts such parameters in place of their members in the optimizer's groups inside."""
        groups, used = self.optimizer.param_groups, self.used()
        own, state = [group["params"] for group in groups], self.optimizer.state
        if self.shared:
            for group, given in zip(groups, self.lists_of(used), strict=True):
                group["params"] = given
        for whole in used:
            if self.states[whole]:
                state[whole.values] = self.states[whole]
        try:
            yield
        finally:
            for group, given in zip(groups, own, strict=True):
                group["params"] = given
            for whole in used:
                found = state.pop(whole.values, {})
                if found.keys() != state.get(whole.members[0], {}).keys():
                    self.share(whole, found)
                self.states[whole] = found

    def used(self) -> list[Whole]:
        """Returns those that are trained as one in this step; members of others get their parts of
        the gradient.
        """
        used = []
        for whole in self.laid():
            alone = any(member.grad is not None for member in whole.members)
            if whole.values.grad is not None and not alone and self.joins(whole):
                used.append(whole)
            else:
                whole.spread()
                self.states.pop(whole, None)
        return used

    def joins(self, whole: Whole) -> bool:
        """Returns whether the members are trained alike, and joins what is kept of them."""
        if not self.elementwise or whole in self.apart:
            return False
        if whole not in self.states:
            state = self.joined(whole)
            if state is None:
                self.apart.add(whole)
                return False
            self.share(whole, state)
            self.states[whole] = state
        return True

    def joined(self, whole: Whole) -> dict | None:
        """Returns what is kept of all members as that of one, None where it can't be."""
        members = set(whole.members)
        if not any(members <= set(group["params"]) for group in self.optimizer.param_groups):
            return None
        kept = [self.optimizer.state.get(member, {}) for member in whole.members]
        if any(each.keys() != kept[0].keys() for each in kept):
            return None
        found = {}
        for name in kept[0]:
            values = [each[name] for each in kept]
            if all(v.shape == m.shape for v, m in zip(values, whole.members, strict=True)):
                found[name] = whole.joined(values)
                continue
            different = {id(value): value for value in values}
            numbers = torch.stack([value.reshape(()) for value in different.values()])
            if len(different) > 1 and len(numbers.unique()) > 1:
                return None
            found[name] = values[0].clone()
        return found

    def share(self, whole: Whole, state: dict) -> None:
        """Gives each member its part of what is kept of all."""
        self.shared = True
        parts = {k: whole.parts(v) for k, v in state.items() if v.shape == whole.values.shape}
        for number, member in enumerate(whole.members):
            own = {name: some[number] for name, some in parts.items()}
            self.optimizer.state[member] = {k: own.get(k, v) for k, v in state.items()}

    def lists_of(self, used: list[Whole]) -> list[list[Tensor]]:
        """Returns the parameters of each group of the optimizer, those in place of their members.
        Other parameters get a count of steps of their own, which they may have had together.
        """
        covered = {id(member) for whole in used for member in whole.members}
        firsts = {id(whole.members[0]): whole.values for whole in used}
        seen = {id(value) for whole in used for value in self.states[whole].values()}
        lists = []
        for group in self.optimizer.param_groups:
            wholes = [firsts[id(p)] for p in group["params"] if id(p) in firsts]
            alone = [p for p in group["params"] if id(p) not in covered]
            lists.append(wholes + alone)
            for state in (self.optimizer.state.get(p, {}) for p in alone):
                for name, value in state.items():
                    if torch.is_tensor(value) and value.numel() == 1:
                        state[name] = value.clone() if id(value) in seen else value
                        seen.add(id(state[name]))
        return lists
