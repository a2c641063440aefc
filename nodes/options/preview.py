"""LoRA² Preview Options: draws pictures while a LoRA is trained."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.samplers
from comfy_api.latest import io

from ...lora2_core.host.output import numbered_files
from ...lora2_core.host.training.previews import LARGEST, Preview
from ..checking import validated
from ..inputs import number, seed
from ..sockets import check_clip
from .base import OptionsNode, chain

MOST = 64  # pictures of a node: more take longer than a training


def side(name: str) -> io.Int.Input:
    """Makes the field for the width or height of a picture in pixels."""
    tooltip = f"The {name} in pixels. 0: that of the first training picture."
    return io.Int.Input(name, default=0, min=0, max=LARGEST, step=8, tooltip=tooltip)


def encoded(clip: object, prompts: list[str]) -> list[tuple[list, str]]:
    """Returns (CONDITIONING, prompt) of each prompt. Raises ValueError where there is no CLIP."""
    if not prompts:
        return []
    if clip is None:
        raise ValueError("prompts need clip: connect the CLIP that belongs to the model.")
    check_clip(clip)
    return [(clip.encode_from_tokens_scheduled(clip.tokenize(text)), text) for text in prompts]


class LoRA2PreviewOptions(OptionsNode):
    node_id = "LoRA2PreviewOptions"
    title = "Preview Options"
    description = (
        "Draws a picture with the unfinished adapter at regular steps, always from the same noise. "
        "LoRA\u00b2 Train shows it and saves it to the output folder. The training stays the same. "
        "Chain more of these nodes for more prompts."
    )
    aliases = [
        "sample prompts", "samples while training", "sample every", "validation image", "preview",
    ]  # fmt: skip
    renamed = {"every": "preview_every"}

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Conditioning.Input(
                "positive",
                optional=True,
                tooltip="What the picture shows. Or connect clip and write prompts.",
            ),
            io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
            io.Conditioning.Input(
                "negative",
                optional=True,
                tooltip="What the picture must not show. Not connected: a conditioning of zeros.",
            ),
            chain("Each LoRA\u00b2 Preview Options in the chain adds a prompt."),
            io.Int.Input(
                "every",
                default=100,
                min=1,
                max=1_000_000,
                tooltip="Number of steps from one picture to the next. The first picture is drawn "
                "before the training, the last one after it.",
            ),
            seed("Seed of the noise that every picture begins with."),
            io.Int.Input(
                "steps",
                default=20,
                min=1,
                max=10000,
                tooltip="Sampler steps for each picture.",
            ),
            number(
                "cfg",
                default=5.0,
                max=100.0,
                step=0.1,
                tooltip="How closely the picture follows the prompt. Use 1 for Flux and other "
                "distilled models, which is twice as fast.",
            ),
            io.Combo.Input(
                "sampler_name",
                options=list(comfy.samplers.SAMPLER_NAMES),
                default="euler",
                tooltip="As in KSampler.",
            ),
            io.Combo.Input(
                "scheduler",
                options=list(comfy.samplers.SCHEDULER_NAMES),
                default="simple",
                tooltip="As in KSampler.",
            ),
            side("width"),
            side("height"),
            io.String.Input(
                "filename_prefix",
                default="lora2/previews/preview",
                tooltip="Folder and name in the output folder. A number for the run and the step "
                "are added.",
            ),
            io.String.Input(
                "prompt",
                default="",
                multiline=True,
                optional=True,
                tooltip="The prompt of positive as text. Only needed when LoRA\u00b2 Train trains "
                "the text encoder: the prompt is then encoded again for every picture.",
            ),
            number(
                "strength",
                default=1.0,
                min=-10.0,
                max=10.0,
                optional=True,
                tooltip="Strength of the adapter in the picture.",
            ),
            io.Clip.Input(
                "clip",
                optional=True,
                tooltip="Encodes prompts: the CLIP that belongs to the model.",
            ),
            io.String.Input(
                "prompts",
                default="",
                multiline=True,
                optional=True,
                tooltip="A prompt a line, each with a picture of its own. Needs clip.",
            ),
            io.Int.Input(
                "seeds",
                default=1,
                min=1,
                max=MOST,
                optional=True,
                tooltip="Pictures of each prompt: of the seed, the next one, and so on.",
            ),
        ]

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Checks before anything runs that the pictures can be written."""
        return validated((numbered_files, filename_prefix))

    @classmethod
    def extended(cls, chain: dict, values: Mapping[str, object]) -> dict:
        """Returns a chain with more previews: each of these nodes adds its own, one for each prompt
        and seed. Raises ValueError where nothing says what they show.
        """
        rest = dict(values)
        positive, clip = rest.pop("positive", None), rest.pop("clip", None)
        lines = [line.strip() for line in rest.pop("prompts", "").splitlines()]
        shown = [(positive, rest.pop("prompt", ""))] if positive is not None else []
        shown += encoded(clip, [line for line in lines if line])
        seed, seeds = rest.pop("seed", 0), rest.pop("seeds", 1)
        if not shown:
            raise ValueError("Nothing says what previews show: give positive, or clip and prompts.")
        if len(shown) * seeds > MOST:
            raise ValueError(
                f"{len(shown)} prompts with {seeds} seeds are more than {MOST} pictures: give "
                "fewer."
            )
        rest.pop("prompt", None)
        own = cls.settings(**rest)
        more = [
            Preview(positive=cond, prompt=text, seed=(seed + turn) % 2**64, **own)
            for cond, text in shown
            for turn in range(seeds)
        ]
        return chain | {"previews": (*chain.get("previews", ()), *more)}
