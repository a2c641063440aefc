"""`nox -s files`: LoRA files of every kind, as ComfyUI's own adapters, lycoris-lora and peft make
them, in every spelling, of every class of ComfyUI's models as a small random one. Each is read by
LoRA2Load and by ComfyUI's loader; and it goes through a node and LoRA2Save, in every form, to
ComfyUI's loader again.

Families in FULL try every file on every way through a node; in others the files take turns on them,
so that all families together try each kind, spelling, way and form. `-- NAME…` for some families in
full, `-- --processes N`, `-- --show` for the sentences that refuse.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import local

# of classes that have the names and shapes of another one only the first is tried
MODULE = "tests.host.every_family"
FULL = ("Playground", "Flux", "Z-Image")
OWN = ("Playground", "Flux of the real ratio")


def models() -> dict[str, Callable]:
    """Family -> what builds a small random model of it."""
    from lora2_core.host.playground import load_playground
    from lora2_core.playground import asset
    from tests.clients.shapes import FLUX
    from tests.host import flow_models
    from tests.models import build

    own = {OWN[0]: lambda: load_playground(asset.load())[0],
           OWN[1]: lambda: flow_models.build(FLUX)}  # fmt: skip
    own |= {name: lambda name=name: flow_models.build(name) for name in flow_models.FAMILIES}
    return own | {name: lambda name=name: build.build(name) for name in build.names()}


def names_of(model) -> int:
    """What says whether two models have the same names for the same weights."""
    import comfy.lora

    shapes = {k: v.ndim for k, v in model.model.state_dict().items()}
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    return hash(frozenset((str(n), str(k)[:200], shapes.get(k)) for n, k in keys.items()))


def worker() -> None:
    """Answers each family on a line of its input with a line of JSON."""
    import folder_paths
    import torch

    from tests.host.by_others import ALL
    from tests.host.every_file import files
    from tests.host.every_loader import ROUTES, Tally, compare_loaders, round_trips
    from tests.reliability.fuzz import all_nodes

    logging.disable(logging.CRITICAL)
    os.fsync = lambda file: None  # a power cut is no part of this
    nodes, built = all_nodes(), models()
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    for line in sys.stdin:
        name, _, turn = line.strip().partition("\t")
        started = time.perf_counter()
        loaded, kept = Tally(), Tally()
        try:
            with torch.inference_mode():
                model = built[name]()
                every = partial(files, kinds=ALL)
                compare_loaders(nodes, model, folder, name, loaded, every)
                round_trips(nodes, model, folder, name, kept, every, ROUTES, bool(turn))
        except Exception:  # of no file: what it says is the finding
            loaded.wrong.append(f"{name}: {traceback.format_exc()[-2000:]}")
        found = {"name": name, "loaded": loaded.as_json(), "kept": kept.as_json(),
                 "seconds": time.perf_counter() - started}  # fmt: skip
        print(f"\n{json.dumps(found)}", flush=True)


def distinct() -> list[str]:
    """The families of which no earlier one has the same names."""
    import torch

    found: dict[int, str] = {}
    with torch.inference_mode():
        for name, build in models().items():
            try:
                found.setdefault(names_of(build()), name)
            except Exception as error:  # a class that this machine can't build is said, not tried
                print(f"    {name} is not tried: {type(error).__name__}: {error}", flush=True)
    return list(found.values())


class Pool:
    """Processes that each measure one family after another."""

    def __init__(self, processes: int):
        self.threads = ThreadPoolExecutor(processes)
        self.own, self.all = local(), SimpleQueue()

    def measure(self, name: str) -> dict:
        """The figures of a family. A process that ends is named, and another one is started."""
        if (process := getattr(self.own, "process", None)) is None:
            command = [sys.executable, "-m", "tests.hosting.inprocess", MODULE, "--worker"]
            process = self.own.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            self.all.put(process)
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith('{"name"'):
                return json.loads(line)
        self.own.process = None
        fault = {"tried": 1, "equal": 0, "refused": {}, "idle": [],
                 "wrong": [f"{name}: its process ended with {process.wait()}"]}  # fmt: skip
        empty = fault | {"tried": 0, "wrong": []}
        return {"name": name, "loaded": fault, "kept": empty, "seconds": 0.0}

    def all_of(self, names: list[str]) -> Iterator[dict]:
        """The figures of all families, in their order; ends the processes."""
        yield from self.threads.map(self.measure, names)
        while not self.all.empty():
            self.all.get().stdin.close()


def main() -> None:
    """Prints the figures, and fails where a file is refused or lost that ComfyUI takes."""
    from tests.host.every_loader import NEAR, Tally

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; none for all")
    parser.add_argument("--processes", type=int, default=max(1, min(4, os.cpu_count() or 1)))
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    started, loaded, kept = time.perf_counter(), Tally(), Tally()
    turn = "" if options.names else "\tin turn"
    names = [name + turn * (name not in FULL) for name in options.names or distinct()]
    for row in Pool(options.processes).all_of(names):
        first, second = (Tally.of(row[key]) for key in ("loaded", "kept"))
        print(f"{row['name']} ({row['seconds']:.0f} s): read: {first.line()}; saved again: "
              f"{second.line()}", flush=True)  # fmt: skip
        for fault in (first.wrong + second.wrong)[:10]:
            print(f"    {fault}", flush=True)
        loaded.add(first)
        kept.add(second)
    print(f"ComfyUI itself makes nothing of: {', '.join(sorted(loaded.idle))}")
    minutes = (time.perf_counter() - started) / 60
    print(f"all: {len(names)} families in {minutes:.1f} minutes, {options.processes} processes")
    print(f"all: LoRA2Load against ComfyUI's loader, to {NEAR:g}: {loaded.line()}")
    print(f"all: a node, Save in every form, ComfyUI's loader: {kept.line()}")
    for sentence, count in (loaded.refused + kept.refused).most_common() if options.show else ():
        print(f"    {count} refused: {sentence}")
    raise SystemExit(bool(loaded.wrong or kept.wrong))


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["--worker"] else main()
