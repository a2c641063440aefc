"""Preservation without pictures: what the frozen model makes of the subject's noised pictures, with
the word of a class in the place of the trained one, is what the adapted model is to go on making
(differential output preservation, as ai-toolkit has it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ...checks import check_range, check_text
from ...paths import quoted
from ...training.accumulation import Part
from ...training.loss import LossSettings
from ..data.encoding import CAPTION
from .captions import flatten_conditioning
from .examples import Example, by_shape, collate
from .objective import Draw, Renew, prediction_error, step_options
from .pictures import Pictures

EQUALS = "="  # between the trained word and that of the class


@dataclass(frozen=True)
class PreserveSettings:
    """Holds what is to stay as it was.

    preserve_prompt: `trained word = class`: in each caption the class takes the place of the
        trained word. Without = it is the class's caption for all pictures. Empty: nothing.
    preserve_weight: of the difference from the frozen model beside the loss of the subject; 0 for
        nothing.
    preserve_clip: encodes the captions of the class; None for the text encoder that is trained.
    """

    preserve_prompt: str = ""
    preserve_weight: float = 1.0
    preserve_clip: object = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_text("preserve_prompt", self.preserve_prompt)
        check_range("preserve_weight", self.preserve_weight, 0, 1e3)
        trained, equals, kind = map(str.strip, self.preserve_prompt.partition(EQUALS))
        if equals and (not trained or trained.casefold() == kind.casefold()):
            raise ValueError(
                f"preserve_prompt is {quoted(self.preserve_prompt)}: give the trained word, = and "
                "the word of its class, such as sks dog = dog."
            )

    @property
    def used(self) -> bool:
        """Returns whether anything is preserved."""
        return bool(self.preserve_prompt.strip()) and self.preserve_weight > 0

    def facts(self) -> dict:
        """Returns what the file says of it, {} where nothing is preserved."""
        if not self.used:
            return {}
        return {"preserve_prompt": self.preserve_prompt, "preserve_weight": self.preserve_weight}

    def caption_of(self, text: str | None) -> str | None:
        """Returns the class's caption of a picture with this caption; None where they are the same,
        since that one is trained. Raises ValueError where the caption is not known as text.
        """
        trained, equals, kind = map(str.strip, self.preserve_prompt.partition(EQUALS))
        if not equals:
            return trained if trained != text else None
        if text is None:
            raise ValueError(
                "preserve_prompt replaces a word, but positive does not say its captions as text: "
                "take it from LoRA2 Dataset, or give one caption of the class, without =."
            )
        word = rf"(?<!\w){re.escape(trained)}(?!\w)"
        made = re.sub(word, lambda _: kind, text, flags=re.IGNORECASE)
        return None if made == text else " ".join(made.split())

    def pictures(self, subject: Pictures, clip) -> tuple[Pictures, list[int]] | None:
        """Returns the subject's pictures with the class's captions, and their places among the
        subject's; None where nothing is preserved. Raises ValueError where no caption has the
        trained word, and without a text encoder.

        clip: the text encoder that is trained, None for none.
        """
        if not self.used:
            return None
        clip = self.preserve_clip if self.preserve_clip is not None else clip
        if not hasattr(clip, "encode_from_tokens_scheduled"):
            raise ValueError(
                "preserve_prompt needs the text encoder of the model: connect preserve_clip of "
                "LoRA2 Data Options."
            )
        known = subject.texts or [facts.get(CAPTION) for _, facts in subject.captions]
        texts = [self.caption_of(text) for text in known]
        places = [place for place, text in enumerate(texts) if text is not None]
        if not places:
            raise ValueError(
                f"preserve_prompt is {quoted(self.preserve_prompt)}, but no caption has the "
                "trained word: write it as the captions do."
            )
        kept, texts = subject.some(places), [texts[place] for place in places]
        captions = encoded(clip, kept.captions, texts)
        blank = [None] * len(places)
        return replace(kept, captions=captions, texts=texts, mask_weights=blank), places


def encoded(clip, captions: list[list], texts: list[str]) -> list[list]:
    """Returns entries with the texts encoded, and with what else the captions of the subject say:
    sizes, guidance, references. Raises ValueError where the CLIP is another model's.
    """
    made: dict[str, list] = {}
    entries: dict[tuple[int, str], list] = {}
    for entry, text in zip(captions, texts, strict=True):
        if text not in made:
            with torch.no_grad():
                given = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            (made[text],) = flatten_conditioning([given], 1)
        cross, facts = made[text]
        if cross.shape[-1] != entry[0].shape[-1]:
            raise ValueError(
                f"preserve_clip makes captions {cross.shape[-1]} wide, but positive is "
                f"{entry[0].shape[-1]}: connect the CLIP that belongs to the model."
            )
        key = id(entry), text
        entries.setdefault(key, [cross, entry[1] | facts | {CAPTION: text}])
    return [entries[id(entry), text] for entry, text in zip(captions, texts, strict=True)]


def with_class(
    examples: Sequence[Example], of_class: Sequence[Example], places: Sequence[int]
) -> list[Example]:
    """Returns the subject's examples, those at `places` with the example of the class."""
    found = list(examples)
    for place, one in zip(places, of_class, strict=True):
        found[place] = replace(found[place], of_class=replace(one, latent=found[place].latent))
    return found


@dataclass(frozen=True)
class Preservation:
    """Computes how far the adapted model is from the frozen one.

    off: the context in which the model computes without its adapter. weight: of the difference.
    renew: encodes captions as the text encoder is now, where it is trained.
    """

    inner: object
    off: Callable[[], AbstractContextManager]
    weight: float
    options: dict
    settings: LossSettings
    renew: Renew | None = None

    def parts(self, draw: Draw, share: float) -> list[Part]:
        """Returns what a batch of the subject adds to a step, none where no picture of it has a
        caption of the class. Each is computed by itself, so that a step needs no more memory.

        share: of the step's pictures that the batch holds.
        """
        places = [i for i, e in enumerate(draw.examples) if e.of_class is not None]
        examples = [draw.examples[i].of_class for i in places]
        groups = [[places[i] for i in group] for group in by_shape(examples)]
        scale = self.weight * share / len(draw.examples)
        return [Part(partial(self.loss, draw, g, scale * len(g)), 0.0) for g in groups]

    def loss(self, draw: Draw, places: list[int], factor: float) -> Tensor:
        """Returns `factor` times the mean squared difference of the two predictions, in the units
        of the model's own prediction, at these places of a batch.
        """
        examples = [draw.examples[i].of_class for i in places]
        some = Draw(examples, draw.noise[places], draw.sigma[places])
        with torch.no_grad(), self.off():
            target = self.error(some)
        return factor * (self.error(some.renewed(self.renew)) - target).square().mean()

    def error(self, draw: Draw) -> Tensor:
        """Returns the error [B, ...] of the model's prediction; differences of it are those of the
        prediction.
        """
        latents, conditions = collate(draw.examples)
        options = step_options(self.options, draw.sigma)
        rest = conditions, options, self.settings, None
        return prediction_error(self.inner, latents, draw.noise, draw.sigma, *rest)[0]
