"""The pass before says which layers come next; no place is given out while it is needed."""

import random

import pytest
from torch import nn

from lora2_core.host.training.upcoming import Order, Ring


def calls(order: Order, *modules: nn.Module) -> list[bool]:
    return [order.agrees(module) for module in modules]


def test_a_pass_says_what_the_next_one_does():
    a, b, c = (nn.Identity() for _ in range(3))
    order = Order()
    assert not order.begin() or order.following(0) is None
    assert calls(order, a, b, c, b) == [False] * 4
    assert not order.begin()
    assert [order.following(n) for n in range(5)] == [a, b, c, b, None]
    assert calls(order, a, b) == [True] * 2
    assert [order.following(n) for n in range(4)] == [c, b, a, b] and order.is_first(2)
    assert calls(order, c, b) == [True] * 2 and order.begin()


def test_a_shorter_pass_changes_nothing_that_is_known():
    a, b, c = (nn.Identity() for _ in range(3))
    order = Order()
    calls(order, a, b, c)
    order.begin()
    calls(order, a)
    assert not order.begin() and order.last == [a, b, c]
    assert calls(order, a, b, c) == [True] * 3 and order.begin()


@pytest.mark.parametrize("other", [(0, 2, 1), (0, 1, 2, 2), (1,)], ids=str)
def test_another_pass_is_known_once_it_is_over(other):
    modules = [nn.Identity() for _ in range(3)]
    order = Order()
    calls(order, *modules)
    order.begin()
    assert not all(calls(order, *(modules[i] for i in other)))
    assert order.following(0) is None and not order.begin()
    assert order.last == [modules[i] for i in other]


@pytest.mark.parametrize("seed", range(5))
def test_no_place_is_given_out_while_it_is_needed(seed):
    rng, ring, held, read = random.Random(seed), Ring(40), [], []
    for number in range(400):
        size = rng.randint(1, 16)
        first = rng.random() < 0.05
        begin = ring.place(size, held[0][0] if held else None, first=first)
        if begin is not None:
            where = {(begin + i) % ring.size for i in range(size)}
            assert begin % ring.size + size <= ring.size and (not first or not begin % ring.size)
            assert all(where.isdisjoint(other) for _, other in held)
            waited = set(ring.readers(begin + size))
            still = [event for event, other in read if event not in waited]
            assert all(where.isdisjoint(other) for event, other in read if event in still)
            read = [(event, other) for event, other in read if event in still]
            held.append((begin, where))
        if held and (begin is None or rng.random() < 0.4):
            begin, where = held.pop(0)
            ring.read.append((begin, number))
            read.append((number, where))
