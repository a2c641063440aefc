"""The table of docs/reliability.md, from the kept figures: `python -m tests.reliability.table`."""

from __future__ import annotations

from tests.hosting.inprocess import REPOSITORY
from tests.reliability.figures import kept

PAGE = REPOSITORY / "docs" / "reliability.md"
START, END = "<!-- figures -->", "<!-- end of figures -->"
GOALS = {
    1: "50,000 malformed adapters of at least 30 classes: 0 crashes, 0 hangs over 2 s, 0 raw "
    "exceptions, 0 silent accepts; extra memory ≤ 2 × file + 64 MB; one line of file, key, reason",
    2: "at least 200 good files (kohya, diffusers, PEFT, LyCORIS): 0 rejected",
    3: "10,000 single-bit flips in our own files: all detected",
    4: "zero keys matched: an error; some: counts; non-finite alpha or weights: refused",
    5: "1,000 random adapters against the host's loader: fp32 ≤ 1e-6, bf16 ≤ 1 ulp",
    6: "SIGKILL, 200 in saves and 200 in training: 0 corrupt files, at most one interval lost, "
    "orphans swept; oldest and newest safetensors",
    7: "ENOSPC, EACCES, EXDEV at every write call: the old file byte-identical, a visible error, "
    "nothing removed before the new file is read back",
    8: "interrupted at 20 random steps, resumed three times over: bitwise equal on the CPU; GPU ≤ "
    "1e-3",
    9: "one seed twice: one payload SHA-256 on the CPU, the global RNG untouched",
    10: "model, hooks, flags and host globals as before after every way to end; 20 repeats ≤ 1 "
    "MiB, no descriptors or threads",
    11: "interrupt: ends within a step or 2 s with a verified adapter; the next prompt succeeds 50 "
    "of 50",
    12: "NaN or Inf in loss, gradient, latents, optimizer state: none ever saved; 5 in a row end "
    "the run with the last good adapter",
    13: "out of memory at any step: the adapter so far saved, the model restored, one sentence",
    14: "5,000 hostile names and paths: 0 reads or writes outside the allowed roots",
    15: "10,000 fuzzed prompts: 0 uncaught exceptions before training starts",
    16: "static gate; 500 XSS strings show as text",
    0: "200 trainings in one server beside a second client; memory, descriptors, threads flat",
    -1: "the tests inside the host and of its server, on older ComfyUIs",
}


def table() -> str:
    """Markdown: a row for each figure that a command has printed."""
    lines = ["| | goal | measured | met | command |", "|--:|---|---|---|---|"]
    found = kept()
    for number in sorted(GOALS, key=lambda n: (n < 1, abs(n))):  # those without a number last
        shown = str(number) if number > 0 else ""
        for figure, command in found.get(number, []):
            part = "in part" if "not measured" in figure.measured else "**no**"
            met = "yes" if figure.met else part
            cells = shown, GOALS[number], figure.measured, met, f"`{command}`"
            lines.append(f"| {' | '.join(cells)} |")
        if number not in found:
            lines.append(f"| {shown} | {GOALS[number]} | not measured yet | **no** | |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table in its place."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
