"""Strengths as a user writes them: which block gets which factor, and when."""

import pytest

from lora2_core.adapter.block_weights import read_block_weights
from lora2_core.adapter.strengths import Strengths, read_schedule


def test_a_block_goes_before_its_part_and_a_part_before_nothing():
    strengths = Strengths({"up": 0.5, "mid": 0}, read_block_weights("output_blocks.3=0, attn2=1"))
    up = "diffusion_model.output_blocks.{}.1.transformer_blocks.0.{}.to_q"
    assert [strengths.factor(up.format(n, a), "up") for n, a in ((3, "attn1"), (2, "attn1"))] == [
        0, 0.5,
    ]  # fmt: skip
    assert strengths.factor(up.format(3, "attn2"), "up") == 1
    assert strengths.factor("diffusion_model.middle_block.1", "mid") == 0
    assert strengths.factor("diffusion_model.out.2", "other") == 1


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_schedule, "0.5", "schedule has '0.5': write it as in 0:1, 0.5:0.3"),
        (read_schedule, "2:1", "a number from 0 to 1"), (read_schedule, "0:inf", "a number from"),
        (read_schedule, "0:1, 0.0:2", "two values for 0"), (read_schedule, "nan:1", "from 0 to 1"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_named_with_the_remedy(read, text, said):
    with pytest.raises(ValueError) as error:
        read(text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_schedule_holds_its_values_or_goes_over_in_a_line():
    schedule = read_schedule("0.5:0, 0:1, 0.6:2")
    assert Strengths(schedule=schedule).keyframes() == [(0, 1), (0.5, 0), (0.6, 2)]
    line = Strengths(schedule=schedule, between="linear").keyframes()
    assert [round(s, 3) for s, _ in line[:3]] == [0, 0.05, 0.1]
    assert [round(f, 3) for _, f in line[:3]] == [1, 0.9, 0.8] and len(line) == 13
    assert all(b - a < 0.0501 for (a, _), (b, _) in zip(line, line[1:], strict=False))
    assert line[-1] == (0.6, 2) and not Strengths(schedule=((0.0, 1.0),)).varies
