"""What a training gets from the graph, checked and prepared once, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .choices import Choices
from .masks import mask_weights
from .objective import check_loss
from .one_step import divided, takes_one_step
from .pictures import Pictures
from .text_encoder import texts_of

# learning rate: below it nothing is left of an adapter that begins with no update. The form's
# smallest is 1e-9.
LEAST_RATE = 1e-12


@dataclass(frozen=True)
class Inputs:
    """Holds what is trained on: the pictures of the subject, and those of the prior, None without
    one; and the pictures that are held out, None without any. preserved: pictures of the subject
    with captions of its class, and their places among the subject's, None without.
    """

    subject: Pictures
    prior: Pictures | None = None
    held_out: Pictures | None = None
    preserved: tuple[Pictures, list[int]] | None = None


def check_inputs(model, latents: list[dict], positive: list[list], choices: Choices) -> Inputs:
    """Returns what is trained on. Raises ValueError where a choice doesn't fit the pictures, the
    model or the disk.
    """
    subject = Pictures.of(model, latents, positive)
    check_it_learns(choices)
    prior = choices.prior.pictures(model, subject.captions)
    text = choices.text
    text.check(model)
    if text.used:
        subject = replace(subject, texts=text.texts(subject.captions))
        if prior is not None:
            prior = replace(prior, texts=text.prior_texts(prior.captions))
    check_they_are_pictures(subject, choices)
    sampling = model.get_model_object("model_sampling")
    for preview in choices.previews:
        preview.check(subject.captions)
        if takes_one_step(sampling) and divided(preview.positive[0])[0] is None:
            raise ValueError(
                "This model makes one picture of another, but positive of the preview has none: "
                "give it a source by ReferenceLatent."
            )
    with torch.inference_mode(False):  # else the loss could not use the weights
        weights = mask_weights(choices.mask, [latent.values for latent in subject.latents])
    check_loss(choices.loss, sampling)
    choices.keep.check()
    choices.snapshots.check()
    subject = replace(subject, mask_weights=weights)
    subject, held_out = choices.validation.divided(model, subject)
    if text.used and held_out is not None and held_out.texts is None:
        texts = texts_of(held_out.captions, None, "positive of LoRA2 Validation Options", "a text")
        held_out = replace(held_out, texts=texts)
    return Inputs(subject, prior, held_out, choices.preserve.pictures(subject, text.clip))


def check_they_are_pictures(subject: Pictures, choices: Choices) -> None:
    """Raises ValueError where a choice needs height and width, which audio does not have, nor do
    several tensors in one latent.
    """
    if all(latent.pictures for latent in subject.latents):
        return
    remedy = "these latents are audio, or hold several tensors, so disconnect"
    if choices.mask.masks is not None:
        raise ValueError(f"masks say which parts of a picture count, but {remedy} them.")
    if choices.previews:
        raise ValueError(f"Previews draw pictures, but {remedy} LoRA2 Preview Options.")


def check_it_learns(choices: Choices) -> None:
    """Raises ValueError where no step would change anything."""
    rate = choices.training.learning_rate
    if rate == 0 or (rate < LEAST_RATE and choices.start.start_from is None):
        if choices.text.used:
            choices.text.speed(0)  # raises where the text encoder has a learning rate of its own
        raise ValueError(
            f"learning_rate is {rate:g}, so nothing would be learned: give a higher one, such as "
            "1e-4."
        )
