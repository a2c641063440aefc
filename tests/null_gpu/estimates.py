"""The plan of a run's memory beside what the run takes: models, sizes and settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.null_gpu.table import Table
from tests.null_gpu.work import Case

SDXL, BF16 = Case(steps=3), Case(dtype="bf16", pixels=1024, steps=3)
CASES = {
    "SD1.5 fp16, 512 px": replace(SDXL, model="sd15"),
    "SD1.5 fp32, 512 px": replace(SDXL, model="sd15", dtype="fp32"),
    "SDXL fp16, 512 px": SDXL,
    "SDXL fp16, 1024 px": replace(SDXL, pixels=1024),
    "SDXL fp16, 1024 px, checkpointing": replace(SDXL, pixels=1024, checkpointing="on"),
    "SDXL fp16, 512 px, adaptive (starts at 256)": replace(SDXL, mode="adaptive"),
    "the same, rates moving": replace(SDXL, mode="adaptive", moving=True),
    "SDXL fp16, 512 px, batch 4": replace(SDXL, batch=4),
    "SDXL fp16, 512 px, all linear + conv": replace(SDXL, layers="all linear + conv"),
    "SDXL fp16, 512 px, adafactor": replace(SDXL, optimizer="adafactor"),
    "SDXL fp16, 512 px, prodigy": replace(SDXL, optimizer="prodigy"),
    "SDXL fp16, 512 px, adamw8bit": replace(SDXL, optimizer="adamw8bit"),
    "SDXL bf16, 1024 px": replace(SDXL, dtype="bf16", pixels=1024),
    "SD3.5 large bf16, 1024 px": replace(BF16, model="sd35"),
    "Flux bf16, 512 px": replace(BF16, model="flux", pixels=512),
    "Flux bf16, 1024 px, checkpointing": replace(BF16, model="flux", checkpointing="on"),
    "Flux fp8, 512 px": replace(BF16, model="flux", dtype="fp8", pixels=512),
    "Flux fp8, 1024 px, all linear + conv, checkpointing": replace(
        BF16, model="flux", dtype="fp8", layers="all linear + conv", checkpointing="on"
    ),
    "Chroma fp8, 1024 px, checkpointing": replace(
        BF16, model="chroma", dtype="fp8", checkpointing="on"
    ),
    "Qwen-Image fp8, 1024 px": replace(BF16, model="qwen", dtype="fp8"),
    "Qwen-Image fp8, 1024 px, checkpointing": replace(
        BF16, model="qwen", dtype="fp8", checkpointing="on"
    ),
    "Z-Image bf16, 1024 px": replace(BF16, model="z-image"),
    "Lumina 2 bf16, 1024 px": replace(BF16, model="lumina"),
    "Wan 2.2 14 B fp8, a frame of 640 px": replace(BF16, model="wan", dtype="fp8", pixels=640),
    "the same, adaptive, checkpointing": replace(
        BF16, model="wan", dtype="fp8", pixels=640, mode="adaptive", checkpointing="on"
    ),
    "HunyuanVideo bf16, a frame of 640 px": replace(BF16, model="hunyuan", pixels=640),
    "LTX-Video bf16, a frame of 1024 px": replace(BF16, model="ltx"),
    "Cosmos Predict2 bf16, 1024 px": replace(BF16, model="cosmos"),
    "PixArt Sigma fp16, 1024 px": replace(SDXL, model="pixart", pixels=1024),
}


def estimates(row_of: Callable[[Case], dict]) -> Table:
    """What the plan says that a run needs beside the frozen weights, and the measured peak."""
    rows = [["run (rank 64)", "weights, GB", "beside them: planned", "measured", "off by"]]
    off = []
    for name, case in CASES.items():
        row = row_of(case)
        if row.get("steps") != case.steps or "need" not in row:
            rows.append([name, "", row.get("error", "no plan"), "", ""])
            continue
        planned = (row["need"]["adapter"] + row["need"]["step"]) / 1e9
        off.append(planned / row["peak"] - 1)
        figures = f"{row['whole']:.1f}", f"{planned:.2f}", f"{row['peak']:.2f}", f"{off[-1]:+.0%}"
        rows.append([name, *figures])
    if off:
        within = sum(abs(each) <= 0.1 for each in off)
        most = f"{max(off, key=abs):+.0%}"
        rows.append([f"{within} of {len(off)} within 10%", "", "", "", f"at most {most}"])
    return rows
