"""What is usual for the family of a model: how timesteps are drawn, and a learning rate, a rank and
layers; and what a distilled model asks for. The node shows it; nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import comfy.model_sampling

from ...adapter.origin import Note
from ...training.loss import BY_SIZE
from ..playground import PlaygroundSDXL
from .choices import Choices
from .latents import samples_of
from .presets import FAMILIES, KIND, Preset
from .timesteps import mu_of, with_usual

FLOW_MODELS = "Flow model"  # the preset of flow models that have none of their own
# the host's names of models that take few steps: nothing else in them says so
FEW_STEPS = {"FluxSchnell", "HunyuanVideo15_SR_Distilled", "WAN21_CausalAR_T2V", "PiD"}


def family_of(model) -> tuple[str, Preset] | None:
    """Returns the preset that is usual for a ModelPatcher, and its name: by the host's class of the
    model, else that of all flow models. None for others.
    """
    made = {path.stem: Preset.parsed(path.read_bytes()) for path in FAMILIES.glob(f"*{KIND}")}
    for kind in type(model.model.model_config).__mro__:
        for name, preset in sorted(made.items()):
            if kind.__name__ in preset.models:
                return name, preset
    if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        return FLOW_MODELS, made[FLOW_MODELS]
    return None


def advice(model, latents: list, positive: object, choices: Choices) -> Iterator[Note]:
    """Yields sentences; the front end has them in other languages."""
    if isinstance(model.model, PlaygroundSDXL):
        return
    yield ["Timesteps: {0}.", timesteps(model, latents, choices)]
    if (known := family_of(model)) is not None:
        name, preset = known
        rate, rank = f"{preset.learning_rate:g}", str(preset.target_rank)
        layers = preset.settings.get("layers", choices.rank.rules.defaults.layers)
        yield [
            "Usual for this model ({0}): learning_rate {1}, target_rank {2}, layers {3}.",
            name, rate, rank, layers,
        ]  # fmt: skip
    yield from of_distilled(model, positive, known[1].versions if known else "")


def timesteps(model, latents: list, choices: Choices) -> str:
    """Returns how timesteps are drawn, with the shift of flow models."""
    settings, inner = with_usual(choices.loss, model), model.model
    sampling = model.get_model_object("model_sampling")
    if settings.sampling == BY_SIZE:
        firsts = [samples_of(number, latent)[0] for number, latent in enumerate(latents, 1)]
        found = sorted({f"{mu:.3g}" for first in firsts if (mu := mu_of(inner, first)) is not None})
        if found:
            return (
                f"{settings.sampling}, shift {' to '.join([found[0], *found[-1:]][: len(found)])}"
            )
    shift = getattr(sampling, "shift", None)
    return settings.sampling if shift is None else f"{settings.sampling}, shift {shift:g}"


def of_distilled(model, positive: object, versions: str) -> Iterator[Note]:
    """Yields what a distilled model asks for, by what the model says of itself. A LoRA that is
    loaded before the training counts as a training adapter.
    """
    if takes_few_steps(model):
        if not model.patches:
            yield (
                "This model is distilled to few steps, which plain training undoes: load a "
                "training adapter with Load LoRA before LoRA\u00b2 Train, or train the model that "
                "it was distilled from."
            )
    elif versions and not model.patches:
        yield [
            "If this is a distilled version ({0}), load a training adapter with Load LoRA before "
            "LoRA\u00b2 Train.",
            versions,
        ]
    if embeds_guidance(model) and not says_guidance(positive):
        yield (
            "This model is distilled for guidance, and positive says none: FluxGuidance at 1 "
            "before LoRA\u00b2 Train is usual."
        )


def takes_few_steps(model) -> bool:
    """Returns whether the model says that it was distilled to few steps: by the host's class of it,
    a mean flow, or timesteps of which most are left out (LCM).
    """
    sampling, config = model.get_model_object("model_sampling"), model.model.model_config
    skips = getattr(sampling, "skip_steps", 1) > 1
    mean_flow = bool(config.unet_config.get("meanflow"))
    return skips or mean_flow or type(config).__name__ in FEW_STEPS


def embeds_guidance(model) -> bool:
    """Returns whether the model is told a guidance: by a layer that embeds it."""
    embedder = getattr(model.model.diffusion_model, "guidance_in", None)
    return embedder is not None and any(True for _ in embedder.parameters())


def says_guidance(positive: object) -> bool:
    """Returns whether a caption says its guidance, or that there is none."""
    if isinstance(positive, Mapping):
        return "guidance" in positive
    return isinstance(positive, (list, tuple)) and any(map(says_guidance, positive))
