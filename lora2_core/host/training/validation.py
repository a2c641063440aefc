"""What is held out of a training, and what is done with its loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checks import check_range
from ...training.validation import held_out_names
from .latents import count_pictures, names_of
from .pictures import Pictures, naming


@dataclass(frozen=True)
class ValidationSettings:
    """Holds which pictures are not trained on, and when their loss is computed.

    validation_latents, validation_positive: pictures of one's own and their captions, one for all
        or one for each; None for none.
    validation_split: the share of the training pictures that is held out, where there are none of
        one's own.
    validation_every: steps from one loss to the next; 0 for as often as costs 2 % of the run.
    return_best: whether the run's adapter is that of the step where the smoothed loss was lowest.
    picture_losses: whether the loss of each training picture is computed five times.
    """

    validation_latents: list[dict] | None = field(default=None, compare=False, repr=False)
    validation_positive: list[list] | None = field(default=None, compare=False, repr=False)
    validation_split: float = 0.0
    validation_every: int = 0
    return_best: bool = False
    picture_losses: bool = False

    def __post_init__(self) -> None:
        check_range("split", self.validation_split, 0, 0.9)
        check_range("every", self.validation_every, 0, 1_000_000, integer=True)
        given = self.validation_latents is not None, self.validation_positive is not None
        if given == (True, False):
            raise ValueError(
                "latents of LoRA2 Validation Options have no captions: connect positive too."
            )
        if given == (False, True):
            raise ValueError(
                "positive of LoRA2 Validation Options has no pictures: connect latents too."
            )
        if self.return_best and not self.used:
            raise ValueError(
                "return_best needs a held-out loss: raise split of LoRA2 Validation Options, or "
                "connect latents and positive to it."
            )

    @property
    def used(self) -> bool:
        """Returns whether there is a held-out loss."""
        return self.validation_latents is not None or self.validation_split > 0

    def divided(self, model, subject: Pictures) -> tuple[Pictures, Pictures | None]:
        """Returns the pictures to train on, and those that are held out, None without any. Raises
        ValueError where none would be left to train on, and for pictures that don't suit the model.
        """
        if self.validation_latents is not None:
            with naming("Of the validation"):
                own = Pictures.of(model, self.validation_latents, self.validation_positive)
            width, wanted = (p.captions[0][0].shape[-1] for p in (own, subject))
            if width != wanted:
                raise ValueError(
                    f"positive of LoRA2 Validation Options is {width} wide, but that of LoRA2 "
                    f"Train is {wanted}: encode both with the CLIP that belongs to the model."
                )
            return subject, own
        if self.validation_split == 0:
            return subject, None
        out = set(held_out_names(subject.names, self.validation_split))
        places = range(len(subject.names))
        kept, held = ([i for i in places if (subject.names[i] in out) is w] for w in (False, True))
        return subject.some(kept), subject.some(held)

    def trained(self, latents: object) -> int:
        """Returns how many of the pictures of a list of LATENTs are trained on, 0 where that can't
        be said.
        """
        names = names_of(latents)
        if names and self.validation_latents is None and self.validation_split > 0:
            out = set(held_out_names(names, self.validation_split))
            names = [name for name in names if name not in out]
        return len(names)

    def facts(self) -> dict:
        """Returns what the file says of it, {} where nothing is held out."""
        if not self.used:
            return {}
        own = {"validation_split": self.validation_split}
        if self.validation_latents is not None:
            own = {"validation_images": count_pictures(self.validation_latents)}
        return own | {"validation_every": self.validation_every, "return_best": self.return_best}
