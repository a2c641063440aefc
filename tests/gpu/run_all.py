"""Everything that only a GPU can show, on plain torch: `python -m tests.gpu.run_all FOLDER`.

Training steps on a UNet of SDXL's shape with random weights: seconds a step against the limit (the
frozen model's forward and backward pass, gradients to activations), and the peak memory above the
loaded model, for plain, adaptive and paper mode, with and without gradient checkpointing; a whole
short adaptive run with its reviews; step time against max_rank. Prints a table and writes
gpu.json. `--quick`: a tiny model and few steps, on any device.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from lora2_core import RankSettings, TrainSettings, attach, train
from lora2_core.host.training.gradient_checkpointing import checkpointed, repeated_blocks
from tests.gpu.unet import SDXL, SMALL, UNet

TARGETS = r"attn[12]\.to_(q|k|v|out\.0)$"
GIGABYTE = 1e9


@dataclass(frozen=True)
class Case:
    """One way to train. pixels: side of the picture, 8 times that of the latent."""

    name: str
    mode: str
    pixels: int
    rank: int = 64
    max_rank: int = 256
    start_rank: int | None = None
    checkpointing: bool = False


def cases(sizes: list[int]) -> list[Case]:
    found = []
    for pixels in sizes:
        for checkpointing in (False, True):
            for mode in ("fixed", "adaptive", "paper"):
                start = 64 if mode == "adaptive" else None
                name = f"{mode}, rank 64"
                found.append(
                    Case(name, mode, pixels, start_rank=start, checkpointing=checkpointing)
                )
            found.append(
                Case("adaptive, from rank 192", "adaptive", pixels, checkpointing=checkpointing)
            )
    for most in (64, 128, 512):
        name = f"adaptive, rank 64, max_rank {most}"
        found.append(Case(name, "adaptive", sizes[0], max_rank=most, start_rank=64))
    return found


class Bench:
    """The frozen model, and one batch for it at each size."""

    def __init__(self, device: torch.device, quick: bool):
        self.device, self.quick = device, quick
        self.shape = SMALL if quick else SDXL
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        torch.manual_seed(0)
        with device:
            self.model = UNet(self.shape).to(self.dtype).requires_grad_(False)

    def batch(self, pixels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        side = 16 if self.quick else pixels // 8
        generator = torch.Generator().manual_seed(1)
        shapes = (1, 4, side, side), (1, 77, self.shape.context), (1, 4, side, side)
        return tuple(
            torch.randn(s, generator=generator).to(self.device, self.dtype) for s in shapes
        )

    def loss(self, pixels: int) -> Callable[[torch.Generator], torch.Tensor]:
        x, context, wanted = self.batch(pixels)
        return lambda generator: (self.model(x, context) - wanted).float().square().mean()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, step: Callable[[], object], count: int) -> list[float]:
        found = []
        for _ in range(count):
            self.wait()
            start = time.perf_counter()
            step()
            self.wait()
            found.append(time.perf_counter() - start)
        return found

    def memory(self) -> float:
        """The peak since the last call, in GB; nan on the CPU."""
        if self.device.type != "cuda":
            return float("nan")
        peak = torch.cuda.max_memory_allocated() / GIGABYTE
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return peak

    def limit(self, pixels: int, count: int) -> list[float]:
        x, context, wanted = self.batch(pixels)
        x.requires_grad_()

        def step() -> None:
            x.grad = None
            (self.model(x, context) - wanted).float().square().mean().backward()

        return self.seconds(step, count)

    def train(self, case: Case, steps: int, measured: int) -> dict:
        """Times the steps after the first two of a run of `steps`."""
        self.memory()
        before = torch.cuda.memory_allocated() / GIGABYTE if self.device.type == "cuda" else 0.0
        rank = RankSettings(
            mode=case.mode, target_rank=min(case.rank, case.max_rank), max_rank=case.max_rank,
            start_rank=case.start_rank,
        )  # fmt: skip
        with ExitStack() as stack:
            adapters = attach(self.model, TARGETS, rank)
            stack.callback(adapters.detach)
            if case.checkpointing:
                adapted = {c.module for c in adapters.components.values()}
                stack.enter_context(checkpointed(repeated_blocks(self.model, adapted)))
            run = train(adapters, self.loss(case.pixels), TrainSettings(steps, 1e-4))
            next(run), next(run)
            seconds = self.seconds(lambda: next(run), measured)
            ranks = list(adapters.ranks.values())
            run.close()
        return {
            "seconds": seconds,
            "peak_gb": self.memory() - before,
            "mean_rank": sum(ranks) / len(ranks),
        }


def measure(bench: Bench, case: Case, count: int) -> dict:
    """A case between two measurements of the limit; too little memory is a result too."""
    before = bench.limit(case.pixels, count)
    try:
        row = bench.train(case, 100_000, count)
    except torch.OutOfMemoryError as error:
        return asdict(case) | {"error": str(error).splitlines()[0]}
    row["limit"] = before + bench.limit(case.pixels, count)
    row["ratio"] = median(row["seconds"]) / median(row["limit"])
    return asdict(case) | row


def whole_runs(bench: Bench, pixels: int, steps: int) -> list[dict]:
    """Plain and adaptive from the first step to the last, reviews and all."""
    found = []
    for mode in ("fixed", "adaptive"):
        row = bench.train(Case(f"{mode}, whole run", mode, pixels), steps, steps - 2)
        row["total"] = sum(row.pop("seconds"))
        found.append({"name": f"{mode}, {steps} steps", "pixels": pixels} | row)
    return found


def head(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def table(results: dict) -> str:
    lines = head("training", "pixels", "checkpointing", "s a step", "over the limit", "peak GB")
    for row in results["steps"]:
        which = f"| {row['name']} | {row['pixels']} | {'on' if row['checkpointing'] else 'off'} |"
        if "error" in row:
            lines.append(f"{which} {row['error']} | | |")
        else:
            numbers = f"{median(row['seconds']):.4f} | {row['ratio']:.3f} | {row['peak_gb']:.2f}"
            lines.append(f"{which} {numbers} |")
    lines += [
        "",
        "| whole run | pixels | s | peak GB | mean rank at the end |",
        "|---|---|---|---|---|",
    ]
    for row in results["runs"]:
        numbers = f"{row['total']:.1f} | {row['peak_gb']:.2f} | {row['mean_rank']:.1f}"
        lines.append(f"| {row['name']} | {row['pixels']} | {numbers} |")
    note = "peak GB: above the loaded model"
    return "\n".join([f"{results['machine']}; {note}", "", *lines])


def main(arguments: list[str] | None = None) -> dict:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--quick", action="store_true")
    args = options.parse_args(arguments)
    if not (args.quick or torch.cuda.is_available()):
        options.error("there is no GPU here: --quick tries the script on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench, count = Bench(device, args.quick), 2 if args.quick else 10
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    sizes = [512] if args.quick else [512, 1024]
    results = {
        "machine": f"{name or device}, torch {torch.__version__}, {bench.dtype}",
        "steps": [measure(bench, case, count) for case in cases(sizes)],
        "runs": whole_runs(bench, sizes[0], 20 if args.quick else 200),
    }
    args.folder.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\bNaN\b", "null", json.dumps(results, indent=1))
    (args.folder / "gpu.json").write_text(text + "\n")
    print(table(results))
    return results


if __name__ == "__main__":
    main()
