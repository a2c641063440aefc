"""The table of learned ranks, for a small model and for one of many blocks."""

from lora2_core.adapter.rank_map import Cell, RankMap
from tests.demo_report import MANY_BLOCKS, Progress, rank_table


def ranks_of(ranks: dict[tuple[str, str], int]) -> RankMap:
    """A rank map of these (row, column): rank."""
    rows, columns = (list(dict.fromkeys(place[i] for place in ranks)) for i in (0, 1))
    cells = [Cell(f"{r} {c}", r, c, rank, 64, 1.0, 0) for (r, c), rank in ranks.items()]
    return RankMap(rows, columns, cells, 0.0)


def test_table_has_a_row_a_block_and_a_column_a_module():
    table = ranks_of({("down 1", "self q"): 12, ("down 1", "cross k"): 3, ("mid", "self q"): 0})
    assert rank_table(table).splitlines() == [
        "Learned ranks: mean 5.0, from 0 to 12",
        "        self q  cross k",
        "down 1      12        3",
        "mid          0         ",
    ]


def test_many_blocks_become_the_highest_and_the_lowest():
    lines = rank_table(ranks_of({(str(b), "q"): b for b in range(MANY_BLOCKS + 1)})).splitlines()
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
