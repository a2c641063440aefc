"""Strengths as a user writes them: which block gets which factor, and when."""

import pytest

from lora2_core.adapter.strengths import Strengths, read_blocks, read_schedule

PATHS = [
    "double_blocks.3.img_attn.qkv", "double_blocks.30.img_attn.qkv", "single_blocks.3.linear1",
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k", "final_layer.linear",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        ("double_blocks.3=0", [0]), ("double_blocks=0", [0, 1]), ("img_attn.qkv=0", [0, 1]),
        ("*_blocks.3=0", [0, 2]), ("0-3=0", [0, 2, 3]), ("double_blocks.4-40=0", [1]),
        ("attn2=0; final_layer=0", [3, 4]), ("transformer_blocks.0.attn*=0", [3]),
        ("double_blocks.3\n=0", None), ("block=0", []), ("double_blocks.3=1, *=0", [0, 1, 2, 3, 4]),
        ("*=0, double_blocks.3=1", [1, 2, 3, 4]), ("", []),
    ],
)  # fmt: skip
def test_a_pattern_fits_whole_words_of_a_path_and_the_last_one_counts(text, fitting):
    if fitting is None:
        with pytest.raises(ValueError, match="blocks has"):
            read_blocks(text)
        return
    strengths = Strengths({"down": 0.5}, read_blocks(text))
    assert [n for n, path in enumerate(PATHS) if strengths.factor(path, "up") == 0] == fitting
    others = [path for n, path in enumerate(PATHS) if n not in fitting and "3=1" not in text]
    assert all(strengths.factor(path, "down") == 0.5 for path in others)


def test_patterns_of_another_model_are_named():
    strengths = Strengths(blocks=read_blocks("double_blocks.3=1, layers.0=1, down=0"))
    assert strengths.unknown(PATHS) == ["layers.0", "down"]


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_blocks, "double_blocks.3", "blocks has 'double_blocks.3': write it as in double"),
        (read_blocks, "=1", "write it as in"), (read_blocks, "a=x", "a number from -100 to 100"),
        (read_blocks, "a=nan", "a number from -100"), (read_blocks, "a=1e9", "a number from -100"),
        (read_blocks, "(a+)+$=1", "a name of the model with dots"),
        (read_blocks, "a=1," * 1001, "has 1001 entries"),
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
