"""When the held-out loss is computed, and which pictures are held out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora2_core.adapter.held_out import LEVELS
from lora2_core.training.validation import (
    FEWEST,
    MOST,
    PASSES,
    SHARE,
    held_out_names,
    picture_steps,
    schedule,
    spread,
)

STEPS, PICTURES = st.integers(1, 20_000), st.integers(1, 300)


@given(STEPS, st.integers(1, 64), PICTURES)
def test_all_losses_cost_their_share_of_a_run(steps: int, batch: int, held_out: int):
    """But for runs too short for two losses of one picture."""
    every, used = schedule(steps, batch, held_out)
    losses = 1 + -(-steps // every)
    assert 1 <= used <= held_out and 2 <= losses <= MOST
    passes = losses * used * LEVELS
    assert passes <= max(2 * LEVELS, SHARE * steps * batch * PASSES)
    if SHARE * steps * batch * PASSES > FEWEST * LEVELS * held_out:
        assert used == held_out


@given(st.integers(1, 500), st.integers(1, 500))
def test_what_is_spread_is_different_and_in_order(count: int, wanted: int):
    found = spread(count, wanted)
    assert len(found) == min(count, wanted) and found == sorted(set(found))
    assert found[0] >= 0 and found[-1] < count


@pytest.mark.parametrize(("steps", "wanted"), [(500, [0, 125, 250, 375, 500]), (1, [0, 1])])
def test_every_picture_is_looked_at_five_times(steps: int, wanted: list[int]):
    assert picture_steps(steps) == wanted


@given(st.lists(st.sampled_from("abcdefghij"), min_size=2), st.floats(0.01, 0.5))
def test_a_picture_is_held_out_with_all_its_copies_or_not(names: list[str], split: float):
    different = set(names)
    if len(different) < 2:
        with pytest.raises(ValueError, match="leaves none to train on"):
            held_out_names(names, split)
        return
    out = held_out_names(names, split)
    assert len(out) == max(1, round(split * len(different))) < len(different)
    assert set(out) <= different and len(set(out)) == len(out)


def test_a_share_that_leaves_nothing_is_one_sentence():
    with pytest.raises(ValueError, match="split 0.9 of 3 different pictures leaves none"):
        held_out_names(["a", "b", "b", "c"], 0.9)
