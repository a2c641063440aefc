"""The loss of a step in several parts: of the subject, of a prior beside it, and of a class that is
preserved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor

from ...training.accumulation import Part
from ...training.loss import LossSettings
from .examples import Example
from .objective import Draw, Renew, loss_of, make_draw, make_draws
from .preserving import Preservation
from .prior import joint_loss


def make_parts(
    inner,
    subjects: list[Example],
    priors: list[Example],
    weight: float,
    batch_size: int,
    accumulation: int,
    options: dict,
    settings: LossSettings,
    renew: Renew | None,
    preservation: Preservation | None = None,
) -> Callable[[torch.Generator], list[Part]]:
    """Returns loss_fn(generator), which returns the parts of a step: the mean loss of batch_size *
    accumulation pictures of the subject, whatever their shapes, plus `weight` times that of as many
    of the prior, where there is one, and what `preservation` adds, each time before the batch that
    it belongs to.
    """
    kinds = [subjects, priors] if priors else [subjects]
    draws = [draws_of(inner, kind, batch_size, accumulation, settings) for kind in kinds]

    def loss(subject: Draw | None, prior: Draw | None, shares: tuple[float, float]) -> Tensor:
        """Returns what the batches add to the loss of the step, by their shares of its pictures."""
        of_subject, of_prior = shares[0], weight * shares[1]
        if subject is None or prior is None:
            one, share = (prior, of_prior) if subject is None else (subject, of_subject)
            return share * loss_of(inner, one.renewed(renew), options, settings)
        both = subject.renewed(renew), prior.renewed(renew)
        return of_subject * joint_loss(inner, *both, of_prior / of_subject, options, settings)

    def parts(generator: torch.Generator) -> list[Part]:
        found = [draw(generator) for draw in draws]
        totals = [sum(len(draw.examples) for draw in several) for several in found]
        made = []
        for pair in zip_longest(*found):
            subject, prior = (*pair, None)[:2]
            counts = [len(draw.examples) if draw else 0 for draw in (subject, prior)]
            shares = counts[0] / totals[0], counts[1] / totals[-1]
            share = sum(counts) / sum(totals)
            if preservation is not None and subject is not None:
                made += preservation.parts(subject, shares[0])
            made.append(Part(partial(loss, subject, prior, shares), share))
        return made

    return parts


def draws_of(
    inner, examples: list[Example], batch_size: int, accumulation: int, settings: LossSettings
) -> Callable[[torch.Generator], list[Draw]]:
    """Returns draws(generator) of a step: of one batch as `make_draw` has it, or of several."""
    if accumulation > 1:
        return make_draws(inner, examples, batch_size, accumulation, settings)
    draw = make_draw(inner, examples, batch_size, settings)
    return lambda generator: [draw(generator)]
