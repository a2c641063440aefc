"""`nox -s soak` prints figure 11 and the soak: interrupts, and many trainings in one server while a
second client queues and cancels; `-- TRAININGS` for fewer than 200.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path
from random import Random

import lora2_core as lora2
from tests.graphs import SAVE, TRAIN, quick_start
from tests.hosting.server import OPENER, ComfyServer, ExecutionError
from tests.reliability.figures import Figure, keep, told

INTERRUPTS, TRAININGS, WARM = 50, 200, 40
MOST_GROWTH = 32  # MiB of the server over all trainings after the first WARM
STOPS_WITHIN = 2.0  # seconds
PARTS = ("model", "pictures", "dataset", TRAIN, SAVE)


def training(seed: int, steps: int) -> dict:
    """A training that the server has not seen yet, and its file."""
    graph = quick_start(
        steps=steps, seed=seed, batch_size=2, target_rank=4, max_rank=8, name="soak"
    )
    return {part: graph[part] for part in PARTS}


def loras(server: ComfyServer) -> set[Path]:
    return set((server.base / "models" / "loras").rglob("*.safetensors"))


def interrupted(server: ComfyServer, count: int, seed: int) -> tuple[float, list[str]]:
    """(slowest seconds from the interrupt to the end, what went wrong) of trainings that are
    interrupted at a random moment, each followed by a training that is not.
    """
    random, wrong, slowest = Random(seed), [], 0.0
    for number in range(count):
        before, asked = loras(server), []

        def stop(event: dict, asked: list = asked) -> None:
            if event["type"] == "lora2.train" and not asked:
                time.sleep(random.uniform(0, 0.3))
                server.interrupt()
                asked.append(time.perf_counter())

        try:
            server.run(training(10**6 + number, 10**6), stop)
            wrong.append(f"{number}: not interrupted")
        except ExecutionError as error:
            if "nterrupt" not in str(error):
                wrong.append(f"{number}: {error}")
        slowest = max(slowest, time.perf_counter() - asked[0])
        new = loras(server) - before
        try:
            (path,) = new
            if not any(layer.up.any() for layer in lora2.load(path).layers.values()):
                wrong.append(f"{number}: {path.name} has learned nothing")
        except ValueError as error:
            wrong.append(f"{number}: {len(new)} files: {error}")
        try:
            server.run(training(2 * 10**6 + number, 2))
        except ExecutionError as error:
            wrong.append(f"{number}: the next prompt: {error}")
    return slowest, wrong


def figure_11(server: ComfyServer, count: int, seed: int) -> Figure:
    slowest, wrong = interrupted(server, count, seed)
    for fault in wrong[:10]:
        print(f"  {fault}")
    measured = f"{count} interrupts at random moments: ended after {slowest:.2f} s at most, "
    measured += f"{count - len(wrong)} with a verified adapter and a next prompt that succeeds"
    return Figure(11, measured, not wrong and slowest <= STOPS_WITHIN and count >= INTERRUPTS)


def resources(process: int) -> tuple[float, int, int]:
    """(MiB held, open descriptors, threads) of a process (Linux)."""
    folder = Path("/proc", str(process))
    pages = int((folder / "statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return size, len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))


class Neighbour(threading.Thread):
    """A second client: queues prompts of its own and cancels them before they run."""

    def __init__(self, server: ComfyServer, seed: int):
        super().__init__(daemon=True)
        self.server, self.random, self.done = server, Random(seed), threading.Event()
        self.queued = self.cancelled = 0
        self.errors: list[str] = []

    def ask(self, path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.server.address + path, data)
        with OPENER.open(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def run(self) -> None:
        number = 5 * 10**6
        while not self.done.wait(self.random.uniform(0.05, 0.8)):
            number += 1
            try:
                prompt = {"prompt": training(number, 3), "client_id": "neighbour"}
                name = self.ask("/prompt", prompt)["prompt_id"]
                self.queued += 1
                if self.random.random() < 0.9:
                    self.ask("/queue", {"delete": [name]})
                    self.cancelled += 1
            except OSError as error:
                self.errors.append(str(error))


def soaked(server: ComfyServer, count: int, warm: int, seed: int) -> tuple[str, list[str]]:
    """(what was measured, what went wrong) of trainings one after the other beside a neighbour."""
    wrong, series = [], []
    neighbour = Neighbour(server, seed)
    neighbour.start()
    for number in range(count):
        try:
            server.run(training(number + seed * 10**4, 8))
        except ExecutionError as error:
            wrong.append(f"{number}: {error}")
        if number >= warm:
            series.append(resources(server._process.pid))
    neighbour.done.set()
    neighbour.join()
    wrong += neighbour.errors
    third = max(1, len(series) // 3)
    first, last = series[:third], series[-third:]
    grown = [min(row[i] for row in last) - min(row[i] for row in first) for i in range(3)]
    if grown[0] > MOST_GROWTH or grown[1] > 0 or grown[2] > 0:
        wrong.append(f"{grown} more MiB, descriptors and threads")
    measured = f"{count} trainings in one server, while a second client queued {neighbour.queued} "
    measured += (
        f"prompts and cancelled {neighbour.cancelled}: {len(wrong)} failures; from the first "
    )
    measured += f"third after {warm} to the last {grown[0]:+.1f} MiB, {grown[1]:+d} descriptors, "
    return f"{measured}{grown[2]:+d} threads", wrong


def main(count: int = TRAININGS, seed: int = 0) -> None:
    full = count >= TRAININGS
    with ComfyServer() as server:
        stops = figure_11(server, INTERRUPTS if full else max(1, count // 4), seed)
        measured, wrong = soaked(server, count, WARM if full else count // 5, seed)
        for fault in wrong[:20]:
            print(f"  {fault}")
    soak = Figure(0, measured, not wrong and full)  # of no number: it is asked for beside the 16
    if full:
        keep("soak", [stops, soak])
    else:
        print(told(stops), told(soak), sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
