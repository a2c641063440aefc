"""What training costs on a card, without one: tables of launches, host time, memory and starts.

`python -m tests.null_gpu` prints all of them; `steps`, `adaptivity`, `memory`, `estimates`, `ram`
or `starts` one; `case model=sdxl mode=fixed pixels=512` the row of one Case (work.py) as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from statistics import median

from lora2_core import RankSettings
from lora2_core.ranks.modes import FIRST_SHARE
from lora2_core.training.auction import REVIEWS, size_at
from lora2_core.training.last_good import EVERY
from tests.hosting.inprocess import REPOSITORY
from tests.null_gpu.building import environment
from tests.null_gpu.estimates import estimates
from tests.null_gpu.table import Table, markdown
from tests.null_gpu.work import MARK, Case

SDXL = Case()
STEPS = {  # rows of the table of steps, each over the limit
    "fixed 64": SDXL,
    "adaptive, start_rank 64": replace(SDXL, mode="adaptive", start=64),
    "the same while rates move": replace(SDXL, mode="adaptive", start=64, moving=True),
    "fixed 64 with checkpointing": replace(SDXL, checkpointing="on"),
    "fixed 64, all linear + conv": replace(SDXL, layers="all linear + conv"),
}
BY_DEFAULT = {"rank": RankSettings().target_rank, "layers": "auto"}
MEMORY = {
    "fixed 64, 512 px": SDXL,
    "fixed 64, 1024 px": replace(SDXL, pixels=1024),
    "fixed 64, 1024 px, checkpointing": replace(SDXL, pixels=1024, checkpointing="on"),
    "default, 512 px": replace(SDXL, mode="adaptive", **BY_DEFAULT),
    "default with attention alone, 512 px": replace(SDXL, mode="adaptive", rank=16),
}
ROUNDS = 5  # of the table of steps
RUN = 500  # steps, the default of LoRA2 Train
DEFAULT = replace(SDXL, mode="adaptive", rank=16, layers="auto", checkpointing="auto", steps=4)
STARTS = {
    "SDXL fp16, default, 512 px, 8 GB": replace(DEFAULT, gigabytes=8),
    "SDXL fp16, default, 1024 px, 8 GB": replace(DEFAULT, gigabytes=8, pixels=1024),
    "SDXL fp16, default, 1024 px, 12 GB": replace(DEFAULT, gigabytes=12, pixels=1024),
    "Flux fp8, default, 1024 px, 12 GB": replace(
        DEFAULT, model="flux", dtype="fp8", gigabytes=12, pixels=1024
    ),
    "Flux bf16, fixed 64, 1024 px, 16 GB": replace(
        DEFAULT,
        model="flux",
        dtype="bf16",
        mode="fixed",
        rank=64,
        layers="attention",
        gigabytes=16,
        pixels=1024,
    ),
    "Qwen-Image fp8, default, 1024 px, 16 GB": replace(
        DEFAULT, model="qwen", dtype="fp8", gigabytes=16, pixels=1024
    ),
    "Wan 2.2 14 B fp8, default, one frame of 480p, 16 GB": replace(
        DEFAULT, model="wan", dtype="fp8", gigabytes=16, pixels=640
    ),
}


IN_RAM = replace(SDXL, model="sd15", gigabytes=3.2, ordered=True, steps=6)
CHECKPOINTED = replace(IN_RAM, gigabytes=2.8, checkpointing="on")
RAM = {
    "SD1.5 fp16, 512 px, 3.2 GB": IN_RAM,
    "the same, a preview after step 3": replace(IN_RAM, preview=True),
    "checkpointing, 2.8 GB": CHECKPOINTED,
    "checkpointing, a preview after step 3": replace(CHECKPOINTED, preview=True),
    "offload, 2.6 GB": replace(IN_RAM, gigabytes=2.6, checkpointing="offload"),
    "Flux fp8, 1024 px, 12 GB": replace(
        IN_RAM, model="flux", dtype="fp8", pixels=1024, checkpointing="on", gigabytes=12
    ),
    "as the first, but copies do not wait": replace(IN_RAM, broken="read"),
    "as the first, but layers do not wait": replace(IN_RAM, broken="arrived"),
}


def row_of(case: Case) -> dict:
    """Returns what a process of its own measures of a case, its last words as `error` else."""
    others = {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"} if case.ordered else {}
    done = subprocess.run(
        [sys.executable, "-m", "tests.null_gpu.work", case.text],
        cwd=REPOSITORY, env=environment(case.gigabytes, **others), capture_output=True, text=True,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return {"error": (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]}


def steps() -> Table:
    """Launches and host time of a step over those of the limit, and its syncs beyond them. Host
    time differs from process to process, so it is the median of some rounds.
    """
    cases = {"the limit": replace(SDXL, mode="limit"), **STEPS}
    rounds = [{name: row_of(case) for name, case in cases.items()} for _ in range(ROUNDS)]
    limit = rounds[0]["the limit"]
    rows = [["SDXL fp16, 512 px, batch 1", "launches", "over the limit's", "host time", "syncs"]]
    rows.append(["the limit", str(limit["launches"]), "1", "1", str(limit["syncs"])])
    for name in STEPS:
        row = rounds[0][name]
        if "launches" not in row:
            rows.append([name, row["error"], "", "", ""])
            continue
        launches = f"{row['launches'] / limit['launches']:.2f}"
        seconds = median(r[name]["seconds"] / r["the limit"]["seconds"] for r in rounds)
        more = f"{row['syncs'] - limit['syncs']:+d}"
        rows.append([name, str(row["launches"]), launches, f"{seconds:.2f}", more])
    return rows


def adaptivity() -> Table:
    """What reviews of all ranks and copies of the adapter cost of a run of RUN steps: where all are
    like the first one, at one rank, which turns every layer to its singular basis; and with the
    ranks that a run by default has at its reviews. As long as they fall, reviews turn nearly every
    layer, and later few, which counts as none.
    """
    rows = [["SDXL fp16, 512 px, adaptive", "a review", "syncs", "a copy", "of a run's host time"]]
    case = replace(SDXL, mode="adaptive", review=True)
    for start in (256, 64):
        row = row_of(replace(case, start=start))
        name = f"at rank {start}"
        if "review" not in row or "seconds" not in row:
            rows.append([name, row.get("error", "no review"), "", "", ""])
            continue
        share = adapting(row, [row["review"]] * REVIEWS)
        costs = f"{row['review']:.2f} s", str(row["review_syncs"]), f"{row['copy']:.3f} s"
        rows.append([name, *costs, f"{share:.1%} if all were like it"])
    ranks = default_ranks()
    by_rank = {rank: row_of(replace(case, **BY_DEFAULT, start=rank)) for rank in set(ranks)}
    last = by_rank[ranks[-1]]
    name = f"by default, at mean ranks {', '.join(map(str, ranks))}"
    if all("review" in row and "seconds" in row for row in by_rank.values()):
        kinds = ["unturned" if rank == ranks[-1] else "review" for rank in ranks]
        seconds = [by_rank[rank][kind] for rank, kind in zip(ranks, kinds, strict=True)]
        costs = f"{max(seconds):.2f} to {min(seconds):.2f} s", str(last["review_syncs"])
        rows.append([name, *costs, f"{last['copy']:.3f} s", f"{adapting(last, seconds):.1%}"])
    else:
        rows.append([name, "no review", "", "", ""])
    return rows


def adapting(row: dict, reviews: Sequence[float]) -> float:
    """Returns the share of a run's host time that reviews of so many seconds and its copies take.
    row: of a case, which says what its steps and copies cost.
    """
    return (sum(reviews) + RUN / EVERY * row["copy"]) / (RUN * row["seconds"])


def default_ranks() -> list[int]:
    """Returns the mean rank of a run by default at each of its reviews."""
    target = RankSettings().target_rank
    first = FIRST_SHARE * target
    return [round(size_at(n / REVIEWS, first, target)) for n in range(1, REVIEWS)]


def memory() -> Table:
    """Peak memory above the loaded model."""
    rows = [["SDXL fp16, batch 1", "GB above the model"]]
    for name, case in MEMORY.items():
        row = row_of(case)
        rows.append([name, f"{row['peak']:.2f}" if "peak" in row else row["error"]])
    return rows


def starts() -> Table:
    """Which runs train on which card, and how the host copies weights that lie in RAM."""
    head = ["run", "trains", "checkpointing", "GB of weights on the card", "copies, unordered"]
    rows = [head]
    for name, case in STARTS.items():
        row = row_of(case)
        weights = f"{row['model']:.1f} of {row['whole']:.1f}" if "model" in row else ""
        if row.get("steps") == case.steps:
            on = "on" if row["checkpointed"] else "off"
            copies = f"{row['copies']}, {row['unordered']}" if "copies" in row else ""
            rows.append([name, "yes", on, weights, copies])
        else:
            rows.append([name, f"step {row.get('steps', 0) + 1}: {row['error']}", "", weights, ""])
    return rows


def ram() -> Table:
    """What is fetched ahead of weights that lie in RAM, and whether its order is kept; it is not
    where a wait is left out.
    """
    rows = [["run, 6 steps", "GB in RAM", "copies", "layers computed with fetched weights",
             "unordered", "peak, GB", "planned, with gaps"]]  # fmt: skip
    for name, case in RAM.items():
        row = row_of(case)
        if row.get("steps") != case.steps:
            rows.append([name, row["error"], *[""] * 5])
            continue
        unordered = row["unordered"] - row.get("of_preview", 0)
        counts = [str(n) for n in (row["copies"], row["ahead"], unordered)]
        memory = f"{row['peak']:.2f}", f"{row['beside'] / 1e9:.2f}"
        rows.append([name, f"{row['whole'] - row['model']:.1f}", *counts, *memory])
    return rows


TABLES: dict[str, Callable[[], Table]] = {
    "steps": steps,
    "adaptivity": adaptivity,
    "memory": memory,
    "estimates": lambda: estimates(row_of),
    "ram": ram,
    "starts": starts,
}


def case_of(words: Sequence[str]) -> Case:
    """Returns the Case of words such as `pixels=1024`. Raises ValueError for an unknown field."""
    kinds = {field.name: type(field.default) for field in fields(Case)}
    values = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in kinds:
            raise ValueError(f"{word!r} is no field of a case: they are {', '.join(kinds)}.")
        values[name] = text == "True" if kinds[name] is bool else kinds[name](text)
    return Case(**values)


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["case"]:
        print(json.dumps(row_of(case_of(arguments[1:]))))
        return
    for name in arguments or TABLES:
        print(markdown(TABLES[name]()), end="\n\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
