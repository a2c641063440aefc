"""What preservation without pictures does: `python -m tests.benchmarks.preserving`.

An owl is trained on the playground for some steps, three seeds, with the koala preserved and
without. Afterwards the model's prediction for koalas is compared with the frozen model's, and the
loss of the owl with what it was, both at fixed noise and noise levels.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

from tests.hosting import inprocess

FIELDS = {
    "steps": 20, "learning_rate": 1e-2, "target_rank": 4, "max_rank": 16, "batch_size": 2,
    "targets": "attn2", "start_rank": 8, "preserve_prompt": "owl = koala",
}  # fmt: skip
WEIGHTS, SEEDS, LEVELS = (0.0, 1.0, 3.0), (0, 1, 2), (0.5, 1.0, 2.0, 5.0)
OWLS = [f"owl, noto style, {c} background" for c in ("red", "blue", "green", "yellow")]


def measured(models: tuple, data: tuple, options: dict) -> dict[str, float]:
    """Returns how far koalas have moved, the owl's loss before and after, and seconds a step."""
    import torch

    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.inputs import check_inputs
    from lora2_core.host.training.objective import Draw, losses_of
    from lora2_core.host.training.preserving import Preservation, encoded
    from lora2_core.host.training.setup import set_up
    from tests.host.examples import examples_of

    model, clip, _ = models
    choices = Choices.of(FIELDS | options | {"preserve_clip": clip})
    with set_up(model, check_inputs(model, *data, choices), choices) as setup:
        began = time.process_time()
        steps = sum(1 for _ in setup.steps())
        seconds = (time.process_time() - began) / steps
        captions = [text.replace("owl", "koala") for text in OWLS]
        entries = encoded(clip, [caption[0] for caption in data[1]], captions)
        inner = setup.loan.inner
        koalas = examples_of(model, inner, data[0], [[entry] for entry in entries])
        generator = torch.Generator().manual_seed(99)
        noise = torch.randn(len(koalas), *koalas[0].latent.shape[1:], generator=generator)
        of_class, own = (
            Draw(examples, noise, torch.tensor(LEVELS)) for examples in (koalas, setup.examples)
        )
        there = Preservation(inner, setup.adapters.off, 1.0, {}, choices.loss)
        with torch.no_grad():
            adapted, after = there.error(of_class), losses_of(inner, own, {})
            with setup.adapters.off():
                plain, before = there.error(of_class), losses_of(inner, own, {})
    moved = float((adapted - plain).square().mean())
    return {"moved": moved, "before": float(before.mean()), "after": float(after.mean()),
            "seconds": seconds}  # fmt: skip


def report() -> str:
    """Returns a table in Markdown: means over the seeds."""
    import torch

    from lora2_core.host.data.encoding import CAPTION
    from lora2_core.host.playground import load_playground
    from lora2_core.playground import asset, subjects
    from tests.benchmarks.held_out import encode

    lines = ["| `preserve_weight` | the koala moves by | loss of the owl | time of a step |"]
    lines.append("|--:|--:|--:|--:|")
    with torch.inference_mode():
        models = load_playground(asset.load())
        latents, positive = encode(*models[1:], subjects.examples("owl", len(OWLS))[0], OWLS)
        for ((_, facts),), text in zip(positive, OWLS, strict=True):
            facts[CAPTION] = text
        first = None
        for weight in WEIGHTS:
            runs = [
                measured(models, (latents, positive), {"preserve_weight": weight, "seed": seed})
                for seed in SEEDS
            ]
            mean = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
            first = first or mean["seconds"]
            lines.append(
                f"| {weight:g} | {mean['moved']:.4f} | {mean['before']:.3f} → {mean['after']:.3f} "
                f"| {mean['seconds'] / first:.1f} × |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    inprocess.enter(Path(os.environ["LORA2_HOST"]))
    sys.stdout.write(report() + "\n")
