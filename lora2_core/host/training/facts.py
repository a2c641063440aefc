"""What is known of a run in plain values: for its file, and for the checkpoints that it may go on
from.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import torch

from ...training.run import Run
from ..data.encoding import weights_identity
from ..naming import base_facts, diffusers_paths, peft_part
from .recomputing import Recomputing

if TYPE_CHECKING:
    from .run import HostRun

PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}  # as sd-scripts write them; fp32: "no"


def settings_of(run: HostRun) -> dict:
    """Everything that was chosen, as plain values."""
    rank = {k: v for k, v in asdict(run.rank).items() if (k, v) != ("layer_ranks", "")}
    return (
        rank
        | asdict(run.training.resolved(run.rank.rules, started=run.start.start_from is not None))
        | asdict(run.loss)
        | run.prior.facts()
        | run.mask.facts()
        | run.target.facts()
        | run.start.facts
        | run.text.facts(run.training.learning_rate)
        | {"batch_size": run.batch_size}
    )


def facts_to_keep(model, inner, run: HostRun, items: list) -> dict:
    """Everything that must be the same for a run to go on exactly; recomputed activations are, and
    a model with patches can't be told from another.
    """
    shapes = sorted({tuple(item.latent.shape[1:]) for item in items})
    texts = {"text encoder": weights_identity(run.text.clip.patcher)} if run.text.used else {}
    return (
        settings_of(run)
        | texts
        | {
            "pictures": len(items),
            "latents": [list(shape) for shape in shapes],
            "dtype": str(inner.get_dtype_inference()).removeprefix("torch."),
            "base model": None if model.patches else weights_identity(model),
        }
    )


def run_facts(
    model,
    run: HostRun,
    items: list,
    training: Run,
    started: datetime,
    recomputing: Recomputing,
) -> dict:
    """What the file's metadata will say of the run."""
    paths = diffusers_paths(model)
    height, width = items[0].latent.shape[-2:]
    ratio = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
    dtype = PRECISIONS.get(model.model.get_dtype_inference(), "no")
    settings = settings_of(run) | {"checkpointing": recomputing.on, "dtype": dtype}
    return {
        "settings": settings,
        "history": {"loss": training.losses, "mean_rank": training.mean_ranks},
        "steps": len(training.losses),
        "images": len(items),
        "resolution": f"{width * ratio}x{height * ratio}",
        "base": base_facts(model),
        "diffusers": paths,
        "part": peft_part(model, paths),
        "started": int(started.timestamp()),
        "finished": int(datetime.now(timezone.utc).timestamp()),
    }
