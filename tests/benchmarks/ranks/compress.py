"""Experiment D: what is left of a LoRA at a share of its bytes, by four ways to choose the ranks.

Error is |dW - dW'|_F / |dW|_F over all layers together. Also the time for a LoRA of SDXL's 722
modules.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from lora2_core import LoraLayer, RankedLora, load
from lora2_core.adapter.compress import compress, relative_error
from lora2_core.units import BYTES_PER_PARAMETER, MEGABYTE
from tests.benchmarks.ranks.controls import largest_sv_fro, largest_sv_ratio, largest_uniform
from tests.benchmarks.ranks.plain import train_files

SHARES = (0.5, 0.25, 0.1)
METHODS = {
    "compress": lambda lora, parameters: compress(
        lora, budget_mb=parameters * BYTES_PER_PARAMETER / MEGABYTE, tolerance=0
    ),
    "sv_fro": largest_sv_fro,
    "sv_ratio": largest_sv_ratio,
    "uniform": largest_uniform,
}


def compare(name: str, lora: RankedLora) -> list[dict]:
    """A row for every share and method."""
    whole, rows = lora.rotated(), []
    for share in SHARES:
        for method, cut_to in METHODS.items():
            cut = cut_to(whole, share * whole.parameters)
            ranks = cut.ranks.values()
            rows.append(
                {
                    "file": name, "layers": len(whole.layers), "mb": whole.megabytes(),
                    "share": share, "method": method, "used": cut.parameters / whole.parameters,
                    "error": relative_error(whole, cut),
                    "least_rank": min(ranks), "most_rank": max(ranks),
                }
            )  # fmt: skip
    return rows


def sdxl_shapes() -> list[tuple[int, int]]:
    """(out, in) of the linear layers of SDXL's transformer blocks, 722 in all."""
    shapes = []
    for width, blocks, projections in ((640, 10, 5), (1280, 60, 6)):
        square, context = (width, width), (width, 2048)
        block = [square] * 6 + [context] * 2 + [(8 * width, width), (width, 4 * width)]
        shapes += block * blocks + [square] * 2 * projections
    return shapes


def sdxl_sized(rank: int, modules: int | None = None) -> RankedLora:
    """Random layers with a falling spectrum."""
    generator, layers = torch.Generator().manual_seed(0), {}
    fall = torch.logspace(0, -2, rank)
    for i, (rows, fan_in) in enumerate(sdxl_shapes()[:modules]):
        up = torch.randn(rows, rank, generator=generator) * fall
        layers[f"layer_{i}"] = LoraLayer(up, torch.randn(rank, fan_in, generator=generator))
    return RankedLora(layers)


def time_sdxl(rank: int, modules: int | None = None) -> dict:
    """Seconds of one compress at the default tolerance, on as many threads as torch has."""
    lora = sdxl_sized(rank, modules)
    start = time.perf_counter()
    cut = compress(lora)
    return {
        "rank": rank,
        "modules": len(lora.layers),
        "mb": lora.megabytes(),
        "mb_after": cut.megabytes(),
        "seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
    }


@torch.inference_mode()
def run(out: Path, *, quick: bool = False) -> dict:
    """{"errors": rows of `compare`, "timing": rows of `time_sdxl`, "seconds": of training}; the
    files are left in `out`.
    """
    start, errors = time.perf_counter(), []
    for plain, path in train_files(out, quick=quick):
        errors += compare(plain.name, load(path))
    seconds = time.perf_counter() - start
    timing = [time_sdxl(rank, 20 if quick else None) for rank in (64, 128)]
    return {"errors": errors, "timing": timing, "seconds": seconds}


def table(rows: dict) -> str:
    """Markdown: the errors, a line for each file and share, then the times."""
    found = {(r["file"], r["share"], r["method"]): r for r in rows["errors"]}
    lines = [
        f"| LoRA | size | {' | '.join(METHODS)} | ranks of compress |",
        "|---|---|" + "---|" * (len(METHODS) + 1),
    ]
    for name, share in dict.fromkeys((r["file"], r["share"]) for r in rows["errors"]):
        cells = [found[name, share, method] for method in METHODS]
        errors = " | ".join(f"{cell['error']:.3f}" for cell in cells)
        spread = f"{cells[0]['least_rank']} to {cells[0]['most_rank']}"
        lines.append(f"| {name} | {share:.0%} of {cells[0]['mb']:.2f} MB | {errors} | {spread} |")
    lines += [
        "",
        "| modules | rank | MB | MB after | seconds | threads |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows["timing"]:
        sizes = f"{r['mb']:.0f} | {r['mb_after']:.0f}"
        times = f"{r['seconds']:.1f} | {r['threads']}"
        lines.append(f"| {r['modules']} | {r['rank']} | {sizes} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    results = run(Path(sys.argv[1]), quick="--quick" in sys.argv)
    (Path(sys.argv[1]) / "compress.json").write_text(json.dumps(results, indent=1))
    print(table(results))
    print(f"\ntraining and comparing took {results['seconds']:.0f} s")
