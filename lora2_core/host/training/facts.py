"""What is known of a run in plain values: for the metadata of its file, and for the checkpoints
that it may go on from.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone

import torch

from ...training.settings import TrainSettings
from ..data.encoding import weights_identity
from ..naming import base_facts, diffusers_paths, model_names, peft_part
from .choices import Choices
from .examples import Example
from .held_out import recorded
from .previews import OBSERVED as PREVIEWS
from .setup import Setup

# settings that a file and a checkpoint say only where they are on
OPTIONAL = (
    "optimizer_args", "rank_dropout", "module_dropout", "scale_weight_norms", "loraplus_lr_ratio",
)  # fmt: skip
PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}  # as sd-scripts write them; fp32: "no"


def settings_of(choices: Choices) -> dict:
    """Returns everything that was chosen, as plain values."""
    started = choices.start.start_from is not None
    training = asdict(choices.training.resolved(choices.rank.rules, started=started))
    off = {name: getattr(TrainSettings, name) for name in OPTIONAL}
    training = {k: v for k, v in training.items() if k not in off or v != off[k]}
    accumulation = choices.gradient_accumulation_steps
    rank = {k: v for k, v in asdict(choices.rank).items() if (k, v) != ("layer_ranks", "")}
    return (
        rank
        | training
        | asdict(choices.loss)
        | choices.prior.facts()
        | choices.preserve.facts()
        | choices.mask.facts()
        | choices.target.facts()
        | choices.start.facts
        | choices.text.facts(choices.training.learning_rate)
        | choices.validation.facts()
        | {"batch_size": choices.batch_size}
        | ({"gradient_accumulation_steps": accumulation} if accumulation > 1 else {})
        | ({"straight_through": True} if choices.straight_through else {})
        | ({"torch_compile": True} if choices.torch_compile else {})
    )


def facts_to_resume(model, choices: Choices, setup: Setup) -> dict:
    """Returns everything that must be the same for a run to go on exactly. Gradient checkpointing
    may differ; a model with patches can't be told from another.
    """
    examples, text = setup.all_examples, choices.text
    shapes = sorted({shape[1:] for example in examples for shape in shapes_of(example)})
    texts = {"text encoder": weights_identity(text.clip.patcher)} if text.used else {}
    return (
        settings_of(choices)
        | texts
        | {
            "pictures": len(examples),
            "latents": [list(shape) for shape in shapes],
            "dtype": str(setup.loan.inner.get_dtype_inference()).removeprefix("torch."),
            "base model": None if model.patches else weights_identity(model),
        }
    )


def shapes_of(example: Example) -> list[tuple[int, ...]]:
    """Returns the shapes of the tensors in an example's latent, in the model's own scale."""
    return list(example.shapes[1:] and example.shapes) or [tuple(example.latent.shape)]


def resolution_of(example: Example, form) -> str | None:
    """Returns WIDTHxHEIGHT in pixels of a latent of this format, None for audio."""
    shape = shapes_of(example)[0]
    if len(shape) < 4:
        return None
    ratio = getattr(form, "spacial_downscale_ratio", 8)
    return f"{shape[-1] * ratio}x{shape[-2] * ratio}"


def metadata_of(model, choices: Choices, setup: Setup) -> dict:
    """Returns what the metadata of a file would say if the run ended now."""
    run, examples = setup.run, setup.examples
    paths = diffusers_paths(model)
    dtype = PRECISIONS.get(model.model.get_dtype_inference(), "no")
    own = {"checkpointing": setup.checkpointing.on, "dtype": dtype}
    held_out, pictures = recorded(run, setup.probes.names)
    history = {"loss": run.losses, "mean_rank": run.mean_ranks}
    return {
        "settings": settings_of(choices) | own,
        "history": history | held_out.series() | pictures.series(),
        "pictures": pictures.names,
        "previews": run.observed.get(PREVIEWS, {}).get("drawn", []),
        "steps": len(run.losses),
        "images": len(examples),
        "resolution": resolution_of(examples[0], model.get_model_object("latent_format")),
        "base": base_facts(model),
        "diffusers": paths,
        "part": peft_part(model, paths),
        "names": model_names(model, choices.text.clip),
        "started": int(setup.started.timestamp()),
        "finished": int(datetime.now(timezone.utc).timestamp()),
    }
