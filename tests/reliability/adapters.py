"""Figures 1 to 4: malformed adapters, good ones, flipped bits, and keys that match nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import torch

import lora2_core as lora2
from tests.hosting.inprocess import REPOSITORY
from tests.reliability.figures import Figure
from tests.reliability.good import good_files
from tests.reliability.malformed import CLASSES, malformed, own
from tests.reliability.malformed_kinds import NOTED

SLOW, MEMORY = 2.0, 64e6  # seconds of the processor; bytes beside twice the file
NAME = "bad.safetensors"


def held() -> tuple[int, int]:
    """(bytes that the process holds, the most since the last call); 0 where there is no /proc."""
    try:
        text = Path("/proc/self/status").read_text()
        found = {k: 1024 * int(v) for k, v in re.findall(r"(VmHWM|VmRSS):\s+(\d+)", text)}
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0, 0
    return found["VmRSS"], found["VmHWM"]


def fault_of(path: Path, words: list[str], noted: bool = False) -> str | None:
    """What is wrong with how a malformed file is refused; None when nothing is.

    noted: it may be read as well, if the adapter has a note on what is wrong.
    """
    before, _ = held()
    started = time.process_time()
    try:
        lora = lora2.load(path)
        return None if noted and lora is not None and lora.origin.file.notes else "silent accept"
    except ValueError as error:
        text = str(error)
    except Exception as error:  # anything else is the finding
        return f"raw {type(error).__name__}"
    finally:
        seconds, most = time.process_time() - started, held()[1]
    if seconds > SLOW:
        return "hang"
    if most - before > 2 * path.stat().st_size + MEMORY:
        return "memory"
    if not text.startswith(path.name) or not text.endswith(".") or not text.isprintable():
        return "no line that names the file"
    return None if all(word in text for word in words) else "no word of the key or reason"


def read_malformed(first: int, count: int, folder: Path) -> tuple[Counter, float]:
    """(faults, slowest seconds) of some files, one class after the other."""
    faults, slowest, names = Counter(), 0.0, list(CLASSES)
    for number in range(first, first + count):
        name = names[number % len(names)]
        data, words = malformed(Random(number), name)
        (folder / NAME).write_bytes(data)
        (folder / "number").write_text(str(number))
        started = time.process_time()
        if fault := fault_of(folder / NAME, words, name in NOTED):
            faults[f"{fault}: {name} {number}"] += 1
        slowest = max(slowest, time.process_time() - started)
    return faults, slowest


def worker(first: str, count: str, folder: str) -> None:
    faults, slowest = read_malformed(int(first), int(count), Path(folder))
    sys.stdout.write(json.dumps([dict(faults), slowest]))


def malformed_in_processes(count: int, seed: int, batch: int = 5000) -> tuple[Counter, float]:
    """As read_malformed, in processes of their own: one that dies or hangs is a finding."""
    faults, slowest = Counter(), 0.0
    for first in range(seed, seed + count, batch):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.reliability.adapters", str(first)]
            command += [str(min(batch, seed + count - first)), folder]
            try:
                done = subprocess.run(
                    command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60 + batch,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                faults[f"hang: {Path(folder, 'number').read_text()}"] += 1
                continue
            if done.returncode:
                faults[f"crash {done.returncode}: {Path(folder, 'number').read_text()}"] += 1
                continue
            found, slow = json.loads(done.stdout)
            faults.update(found)
            slowest = max(slowest, slow)
    return faults, slowest


def figure_1(count: int, seed: int) -> Figure:
    faults, slowest = malformed_in_processes(count, seed)
    for fault in list(faults)[:20]:
        print(f"  {fault}")
    return Figure(
        1,
        f"{count} malformed adapters of {len(CLASSES)} classes: {sum(faults.values())} crashes, "
        f"hangs, raw exceptions, silent accepts or unclear sentences; the slowest "
        f"{slowest:.2f} s; memory within 2 x file + 64 MB",
        not faults and count >= 50_000 and len(CLASSES) >= 30 and os.name == "posix",
    )


def figure_2() -> Figure:
    rejected = count = 0
    with tempfile.TemporaryDirectory() as folder:
        for what, path, layers in good_files(Path(folder)):
            count += 1
            try:
                read = len(lora2.load(path).layers)
            except ValueError as error:
                read = str(error)
            if read != layers:
                rejected += 1
                print(f"  {what}: {read}")
    measured = f"{count} good files in the names of kohya, diffusers, PEFT and LyCORIS: {rejected}"
    return Figure(2, f"{measured} rejected", not rejected and count >= 200)


def flipped(data: bytes, bit: int) -> bytes:
    """A file with one other bit."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def seen_flip(path: Path, data: bytes, bit: int) -> bool:
    """Whether a flipped bit of one of our own files is detected: in the payload it must be an
    error. In the header it may be a warning, where every update is what it was; a name may fall
    back to that of the tensors.
    """
    path.write_bytes(data)
    before = lora2.load(path)
    path.write_bytes(flipped(data, bit))
    try:
        after = lora2.load(path)
    except ValueError:
        return True
    start = 8 * (8 + int.from_bytes(data[:8], "little"))
    return bit < start and bool(after.origin.file.notes) and same_updates(before, after)


def same_updates(before: lora2.RankedLora, after: lora2.RankedLora) -> bool:
    """Whether every layer with a rank has the update that it had, under its name or the file's."""
    bases = before.origin.file.bases
    wanted = {bases[name]: layer for name, layer in before.layers.items() if layer.rank}
    found = {n: layer for n, layer in after.layers.items() if layer.rank}
    named = {base: name for name, base in bases.items()}
    return len(found) == len(wanted) and all(
        (other := found.get(named[base], found.get(base))) is not None
        and torch.equal(layer.up, other.up)
        and torch.equal(layer.down, other.down)
        and layer.kernel == other.kernel
        for base, layer in wanted.items()
    )


def missed_flips(count: int, seed: int, folder: Path) -> int:
    """Single flipped bits of our own files that are not detected."""
    random, missed, path = Random(seed), 0, folder / NAME
    for number in range(count):
        if number % 100 == 0:
            data = own(random)
        missed += not seen_flip(path, data, random.randrange(8 * len(data)))
    return missed


def figure_3(count: int, seed: int) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        missed = missed_flips(count, seed, Path(folder))
    measured = f"{count} single-bit flips anywhere in our own files: {count - missed} detected"
    return Figure(3, measured, not missed and count >= 10_000)


if __name__ == "__main__":
    worker(*sys.argv[1:])
