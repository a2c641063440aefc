"""The table of learned ranks, for a small model and for one of many blocks."""

import re

from tests.demo_report import MANY_BLOCKS, Progress, rank_table, split


def test_layer_names_are_shortened():
    name = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0"
    assert split(name) == ("input 4.1 / 0", "attn1.out")
    assert split("double_blocks.3.img_mod.lin") == ("double 3.img_mod", "lin")
    assert split("linear") == ("", "linear")


def test_table_has_a_row_a_block_and_a_column_a_module():
    modules = ("attn1.to_q", "attn2.to_k")
    ranks = {f"input_blocks.{b}.1.transformer_blocks.0.{m}": b for b in (1, 2) for m in modules}
    title, head, *rows = rank_table(ranks).splitlines()
    assert "mean 1.5, from 1 to 2" in title
    assert head.split() == ["attn1.q", "attn2.k"]
    assert [re.split(r"  +", row) for row in rows] == [
        ["input 1.1 / 0", "1", "1"],
        ["input 2.1 / 0", "2", "2"],
    ]


def test_many_blocks_become_the_highest_and_the_lowest():
    ranks = {f"blocks.{b}.attn1.to_q": b for b in range(MANY_BLOCKS + 1)}
    lines = rank_table(ranks).splitlines()
    assert len(lines) == 18
    assert lines[1].split()[0] == str(MANY_BLOCKS) and lines[-1].split()[0] == "0"


def test_progress_in_a_file_prints_a_tenth_of_the_steps(capsys):
    progress = Progress(100)
    progress({"type": "executing", "data": {"node": "train"}})
    for step in range(1, 101):
        data = {"step": step, "steps": 100, "loss": None, "mean_rank": 8.0, "mb": 0.1}
        progress({"type": "lora2.train", "data": data})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "training…" and len(printed) == 11
