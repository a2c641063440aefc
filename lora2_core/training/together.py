"""One step of an optimizer for parameters that lie behind each other (layers/wholes.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..layers.layer import Component
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
        for whole in laid():
            whole.kept = None  # by an optimizer of before
        self.unlike: WeakSet[Whole] = WeakSet()  # whose members are not trained alike
        self.shared = False  # whether parameters ever had a count of steps together
        self.moved = -1
        self.known: dict[tuple[int, ...], list[list[nn.Parameter]]] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Returns all that can have a gradient: wholes, and parameters without or apart of one."""
        laid = self.laid()
        apart = [member for whole in laid if whole.apart for member in whole.members]
        rest = [p for some in self.others(laid) for p in some]
        return [whole.values for whole in laid] + apart + rest

    def zero_grad(self) -> None:
        """Removes all gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        for whole in self.laid():
            whole.apart = False

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Puts such parameters in place of their members in the optimizer's groups inside."""
        groups, used = self.optimizer.param_groups, self.used()
        own, state = [group["params"] for group in groups], self.optimizer.state
        others = self.others(used)
        heads = [set(map(id, given)) for given in own] if len(own) > 1 else []
        for number, (group, rest) in enumerate(zip(groups, others, strict=True)):
            here = [w for w in used if not heads or id(w.members[0]) in heads[number]]
            group["params"] = [whole.values for whole in here] + rest
        for whole in used:
            if whole.kept:
                state[whole.values] = whole.kept
        try:
            yield
        finally:
            for group, given in zip(groups, own, strict=True):
                group["params"] = given
            for whole in used:
                found = state.pop(whole.values, {})
                if found.keys() != state.get(whole.members[0], {}).keys():
                    self.share(whole, found)
                whole.kept = found

    def others(self, wholes: Sequence[Whole]) -> list[list[nn.Parameter]]:
        """Returns the parameters of each group of the optimizer that are in none of these. They get
        counts of steps of their own, which they may have had together.
        """
        if not (wholes or self.shared):  # and nothing keeps parameters that others replace
            return [group["params"] for group in self.optimizer.param_groups]
        if self.moved != Component.moved:
            self.moved, self.known = Component.moved, {}
        key = tuple(map(id, wholes))
        if key not in self.known:
            covered = {id(member) for whole in wholes for member in whole.members}
            groups = [group["params"] for group in self.optimizer.param_groups]
            self.known[key] = [[p for p in given if id(p) not in covered] for given in groups]
            seen = {id(v) for whole in wholes for v in (whole.kept or {}).values()}
            for state in (
                self.optimizer.state.get(p, {}) for some in self.known[key] for p in some
            ):
                for name, value in state.items():
                    if torch.is_tensor(value) and value.numel() == 1:
                        state[name] = value.clone() if id(value) in seen else value
                        seen.add(id(state[name]))
        return self.known[key]

    def used(self) -> list[Whole]:
        """Returns those that are trained as one in this step; members of others get their parts of
        the gradient.
        """
        used = []
        for whole in self.laid():
            if whole.values.grad is not None and not whole.apart and self.joins(whole):
                used.append(whole)
            else:
                whole.spread()
                whole.kept = None
        return used

    def joins(self, whole: Whole) -> bool:
        """Returns whether the members are trained alike, and joins what is kept of them."""
        if not self.elementwise or whole in self.unlike:
            return False
        if whole.kept is None:
            state = self.joined(whole)
            if state is None:
                self.unlike.add(whole)
                return False
            self.share(whole, state)
            whole.kept = state
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
            if not are_equal(list({id(value): value for value in values}.values())):
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


def are_equal(numbers: Sequence[Tensor]) -> bool:
    """Returns whether single numbers are equal; waits for the device where there are several."""
    return len(numbers) == 1 or len(torch.stack(list(numbers)).unique()) == 1
