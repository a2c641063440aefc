"""Prior preservation: pictures of the subject's class are trained beside it, so that the class
stays what it was (DreamBooth, arXiv 2208.12242, eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...checks import check_range
from ...training.loss import LossSettings
from .examples import Example, by_shape
from .latents import count_pictures
from .objective import DEFAULT, Draw, Renew, loss_of, make_draw
from .pictures import Pictures, naming


@dataclass(frozen=True)
class PriorSettings:
    """Holds what is to be preserved.

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
        """Returns whether pictures of a class are trained beside the subject."""
        return self.prior_latents is not None and self.prior_weight > 0

    def pictures(self, model, captions: list[list]) -> Pictures | None:
        """Returns the pictures of the class, None where none are trained. Raises ValueError where
        they don't fit together, the model, or the subject's captions, even at a weight of 0.
        """
        if self.prior_latents is None:
            return None
        with naming_the_prior():
            pictures = Pictures.of(model, self.prior_latents, self.prior_positive)
        width, own = (cross.shape[-1] for cross, _ in (pictures.captions[0], captions[0]))
        if width != own:
            raise ValueError(
                f"prior_positive is {width} wide, but positive is {own}: encode both with the CLIP "
                "that belongs to the model."
            )
        return pictures if self.used else None

    def facts(self) -> dict:
        """Returns what the file says of it, {} without a prior."""
        if not self.used:
            return {}
        count = count_pictures(self.prior_latents)
        return {"prior_weight": self.prior_weight, "prior_images": count}


@contextmanager
def naming_the_prior() -> Iterator[None]:
    """Says of a ValueError from inside that it is about the prior."""
    with naming("Of the prior"):
        yield


def scale_weights(examples: list[Example], factor: float) -> list[Example]:
    """Returns the examples with all their weights multiplied."""
    scaled = []
    for example in examples:
        weights = example.weights
        if weights is None:
            weights = torch.ones_like(example.latent[:, :1])
        scaled.append(replace(example, weights=weights * factor))
    return scaled


def joint_loss(
    inner,
    subject: Draw,
    prior: Draw,
    weight: float,
    options: dict,
    settings: LossSettings = DEFAULT,
) -> Tensor:
    """Returns the loss of the subject plus `weight` times that of the prior: by one forward pass
    where their shapes agree, else by two.
    """
    if len(by_shape(subject.examples + prior.examples)) > 1:
        first = loss_of(inner, subject, options, settings)
        return first + weight * loss_of(inner, prior, options, settings)
    count, others = len(subject.examples), len(prior.examples)
    both = scale_weights(subject.examples, (count + others) / count)
    both += scale_weights(prior.examples, weight * (count + others) / others)
    noise, sigma = torch.cat([subject.noise, prior.noise]), torch.cat([subject.sigma, prior.sigma])
    return loss_of(inner, Draw(both, noise, sigma), options, settings)


def make_joint_loss(
    inner,
    subjects: list[Example],
    priors: list[Example],
    weight: float,
    batch_size: int,
    options: dict,
    settings: LossSettings = DEFAULT,
    renew: Renew | None = None,
) -> Callable[[torch.Generator], Tensor]:
    """Returns loss_fn(generator) of a random batch of the subject and one of the prior, of the same
    size.
    """
    draw_subject = make_draw(inner, subjects, batch_size, settings, renew)
    draw_prior = make_draw(inner, priors, batch_size, settings, renew)

    def loss_fn(generator: torch.Generator) -> Tensor:
        subject, prior = draw_subject(generator), draw_prior(generator)
        return joint_loss(inner, subject, prior, weight, options, settings)

    return loss_fn
