"""Prior preservation: pictures of the subject's class are trained beside it, so that the class
stays what it was (DreamBooth, arXiv 2208.12242, eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...checks import check_range
from ...training.loss import LossSettings
from .fit import check_model_takes
from .items import Item, by_shape, flatten_conditioning, flatten_latents, make_items
from .objective import DEFAULT, Draw, Renew, loss_of, make_draw


@dataclass(frozen=True)
class PriorSettings:
    """What is to be preserved.

    prior_latents, prior_positive: pictures of the class and their captions, one for all or one for
        each; None for no prior.
    prior_weight: of their loss beside that of the subject; 0 for no prior.
    """

    prior_latents: list[dict] | None = field(default=None, compare=False, repr=False)
    prior_positive: list[list] | None = field(default=None, compare=False, repr=False)
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        check_range("prior_weight", self.prior_weight, 0, 1e3)
        given = self.prior_latents is not None, self.prior_positive is not None
        if given == (True, False):
            raise ValueError("prior_latents has no captions: connect prior_positive too.")
        if given == (False, True):
            raise ValueError("prior_positive has no pictures: connect prior_latents too.")

    @property
    def used(self) -> bool:
        return self.prior_latents is not None and self.prior_weight > 0

    def check(self, model, captions: list[list]) -> None:
        """ValueError where it doesn't fit together, the model, or the subject's captions."""
        if self.prior_latents is None:
            return
        try:
            pictures = flatten_latents(self.prior_latents, model)
            entries = flatten_conditioning(self.prior_positive, len(pictures))
        except ValueError as error:
            raise ValueError(f"Of the prior: {error}") from error
        width, own = (cross.shape[-1] for cross, _ in (entries[0], captions[0]))
        if width != own:
            raise ValueError(
                f"prior_positive is {width} wide, but positive is {own}: encode both with the CLIP "
                "that belongs to the model."
            )

    def items(self, model, inner, options: dict) -> list[Item]:
        """One item a picture, none without a prior. ValueError where the model can't compute with
        one; `options` are its transformer_options.
        """
        if not self.used:
            return []
        try:
            items = make_items(model, inner, self.prior_latents, self.prior_positive)
            entries = flatten_conditioning(self.prior_positive, len(items))
            check_model_takes(inner, items, entries, options)
        except ValueError as error:
            raise ValueError(f"Of the prior: {error}") from error
        return items

    def facts(self) -> dict:
        """What the file says of it."""
        if not self.used:
            return {}
        count = sum(len(latent["samples"]) for latent in self.prior_latents)
        return {"prior_weight": self.prior_weight, "prior_images": count}


def scaled(items: list[Item], factor: float) -> list[Item]:
    """The items with all their weights multiplied."""
    found = []
    for item in items:
        weights = item.weights
        if weights is None:
            weights = torch.ones_like(item.latent[:, :1])
        found.append(replace(item, weights=weights * factor))
    return found


def joint_loss(
    inner,
    subject: Draw,
    prior: Draw,
    weight: float,
    options: dict,
    settings: LossSettings = DEFAULT,
) -> Tensor:
    """The loss of the subject plus `weight` times that of the prior: one forward pass where their
    shapes agree, else two.
    """
    if len(by_shape(subject.items + prior.items)) > 1:
        first = loss_of(inner, subject, options, settings)
        return first + weight * loss_of(inner, prior, options, settings)
    count, others = len(subject.items), len(prior.items)
    both = scaled(subject.items, (count + others) / count)
    both += scaled(prior.items, weight * (count + others) / others)
    noise, sigma = torch.cat([subject.noise, prior.noise]), torch.cat([subject.sigma, prior.sigma])
    return loss_of(inner, Draw(both, noise, sigma), options, settings)


def make_joint_loss(
    inner,
    subjects: list[Item],
    priors: list[Item],
    weight: float,
    batch_size: int,
    options: dict,
    settings: LossSettings = DEFAULT,
    renew: Renew | None = None,
) -> Callable[[torch.Generator], Tensor]:
    """loss_fn(generator) of a random batch of the subject and one of the prior, of the same
    size.
    """
    subject = make_draw(inner, subjects, batch_size, settings, renew)
    prior = make_draw(inner, priors, batch_size, settings, renew)

    def loss_fn(generator: torch.Generator) -> Tensor:
        one, other = subject(generator), prior(generator)
        return joint_loss(inner, one, other, weight, options, settings)

    return loss_fn
