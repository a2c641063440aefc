"""What a server would send after runs of a large model: for the views, without training it."""

from __future__ import annotations

import math

from lora2_core.adapter.layout import arrange

LAYERS = [
    f"diffusion_model.{block}.1.transformer_blocks.{i}.{attention}.{leaf}"
    for block, depth in (
        ("input_blocks.4", 2), ("input_blocks.7", 10), ("middle_block", 10),
        ("output_blocks.0", 10), ("output_blocks.3", 2),
    )
    for i in range(depth)
    for attention in ("attn1", "attn2")
    for leaf in ("to_q", "to_k", "to_v", "to_out.0")
]  # fmt: skip


def ranks(phase: float) -> list[int]:
    return [
        round(24 + 20 * math.sin(0.7 * i + phase) * math.cos(i / 40)) for i in range(len(LAYERS))
    ]


def rank_map(phase: float) -> dict:
    shown = arrange(LAYERS).as_json()
    for cell, rank in zip(shown["cells"], ranks(phase), strict=True):
        cell |= {"rank": rank, "max_rank": 640, "norm": rank / 7, "bytes": rank * 2560}
    return shown


def training() -> dict:
    points = []
    for step in range(1, 301, 3):
        loss = 0.1 + 0.7 * math.exp(-step / 60)
        points.append(
            [step, loss + 0.06 * math.sin(step * 1.7), loss, 24 + 40 * math.exp(-step / 80), 30.5]
        )
    return {
        "node": "1", "workflow": None, "run": "r", "step": 298, "steps": 500, "loss": 0.11,
        "smooth": 0.105, "mean_rank": 24.96, "mb": 30.5, "ceiling": 33.0, "pace": 1.6,
        "left": 126.0, "passed": 190.0, "ranks": ranks(0), "text": "step 298/500",
        "points": points, "map": arrange(LAYERS).as_json(), "notes": [], "previews": [],
    }  # fmt: skip


OUTPUTS = {
    "LoRA2Train": {"lora2.train": [training()]},
    "LoRA2RankHeatmap": {"lora2_rank_map": [rank_map(0)]},
    "LoRA2Load": {
        "lora2_size_curve": [
            {
                "mb": [i * 1.5 for i in range(1, 101)],
                "mean_rank": [i * 0.64 for i in range(1, 101)],
                "energy": [1 - math.exp(-i / 14) * (1 - i / 100) for i in range(1, 101)],
            }
        ]
    },
}
