"""Training the text encoder beside the model: its layers, and captions that are encoded anew in
every step, with gradients.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import comfy.sd
import torch
from torch import Tensor, nn

from ...checks import check_range, check_text
from ...layers.layer import is_adaptable
from ...paths import quoted
from ..data.encoding import CAPTION
from ..naming import text_layer_names
from .items import Item, encode, flatten_conditioning
from .loan import Loan
from .out_of_place import OutOfPlace
from .prior import PriorSettings

CLIPS = {"clip_l", "clip_g", "clip_h"}  # parts of the text encoders that are trained
SHARE = 0.5  # of the model's learning rate
ATTENTION = "self_attn"
OWN = -1.0  # the default share


@dataclass(frozen=True)
class TextSettings:
    """Whether the text encoder is trained, and how.

    clip: the CLIP whose encoders are trained; None for none.
    captions, prior_captions: the texts of the pictures and those of the prior, one for all or one
        for each; None for those that the conditioning says itself.
    text_learning_rate: of its layers; OWN for half of the model's. None where nobody chose it.
    text_targets: regular expression, searched in the names of its layers.
    """

    clip: object = field(default=None, compare=False, repr=False)
    captions: list[str] | None = field(default=None, compare=False, repr=False)
    prior_captions: list[str] | None = field(default=None, compare=False, repr=False)
    text_learning_rate: float | None = None
    text_targets: str = ATTENTION

    def __post_init__(self) -> None:
        rate = self.text_learning_rate
        if rate is not None and not (isinstance(rate, (int, float)) and rate == OWN):
            check_range("learning_rate of the text encoder", rate, 1e-9, 10)
        check_text("targets of the text encoder", self.text_targets)
        try:
            re.compile(self.text_targets)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"targets of the text encoder is not a regular expression ({error}): "
                f"{quoted(self.text_targets)}"
            ) from error

    @property
    def used(self) -> bool:
        return self.clip is not None

    def speed(self, learning_rate: float) -> float:
        """How many times the model's learning rate the text encoder has. ValueError when the
        model has none.
        """
        if self.text_learning_rate in (None, OWN):
            return SHARE
        if learning_rate == 0:
            raise ValueError(
                "learning_rate is 0, so that of the text encoder has no schedule to follow: set "
                "learning_rate of LoRA2 Train too."
            )
        return self.text_learning_rate / learning_rate

    def check(self, model, captions: list[list], prior: PriorSettings) -> None:
        """ValueError where the CLIP can't be trained or a picture has no text."""
        if self.clip is None:
            if self.text_learning_rate is not None:
                raise ValueError(
                    "LoRA2 Text Encoder Options have no text encoder: connect clip to LoRA2 Train, "
                    "or leave them out."
                )
            return
        check_clip(self.clip, model)
        self.texts(captions)
        if prior.used:
            self.prior_texts(prior)

    def texts(self, entries: list[list]) -> list[str]:
        """The caption of each entry."""
        return texts_of(entries, self.captions, "positive", "captions")

    def prior_texts(self, prior: PriorSettings) -> list[str]:
        """The caption of each picture of the prior."""
        count = sum(len(latent["samples"]) for latent in prior.prior_latents)
        entries = flatten_conditioning(prior.prior_positive, count)
        return texts_of(entries, self.prior_captions, "prior_positive", "prior_captions")

    def chosen(self, text_model: nn.Module) -> dict[str, nn.Module]:
        """The layers to train by their names in files; ValueError where there are none."""
        every = text_modules(text_model)
        found = {n: m for n, m in every.items() if re.search(self.text_targets, n)}
        if not found:
            raise ValueError(
                f"targets {quoted(self.text_targets)} of the text encoder match none of its "
                f"layers: they have names such as {next(iter(every))}."
            )
        return found

    def facts(self, learning_rate: float) -> dict:
        """What tells one choice from another; nothing where no text encoder is trained."""
        if not self.used:
            return {}
        rate = self.speed(learning_rate) * learning_rate
        return {"text_learning_rate": rate, "text_targets": self.text_targets}


def check_clip(clip, model) -> None:
    """ValueError in one sentence for what is no CLIP, or one that is not trained here."""
    if not isinstance(clip, comfy.sd.CLIP):
        raise ValueError("clip is no CLIP: connect the one that belongs to the model.")
    parts = [name for name, _ in clip.cond_stage_model.named_children()]
    if others := [part for part in parts if part not in CLIPS]:
        raise ValueError(
            f"The text encoder {others[0]} is not trained here, only the CLIPs of SD1.5, SD2, SDXL "
            "and their kin: leave clip of LoRA2 Train unconnected."
        )
    if clip.patcher.forced_hooks is not None:
        raise ValueError("clip has hooks, which training does not follow: connect it without them.")
    if clip.patcher.load_device != model.load_device:
        raise ValueError(
            f"The text encoder runs on {clip.patcher.load_device}, but the model on "
            f"{model.load_device}: start ComfyUI so that both run on one device (--gpu-only), or "
            "leave clip of LoRA2 Train unconnected."
        )


def texts_of(entries: list[list], given: list[str] | None, what: str, name: str) -> list[str]:
    """The captions that are given or that the entries of a conditioning say; ValueError where there
    are too few.
    """
    if given is not None:
        if not isinstance(given, list) or any(not isinstance(text, str) for text in given):
            raise ValueError(f"{name} holds something that is no text: connect a list of captions.")
        if len(given) == 1:
            return given * len(entries)
        if len(given) != len(entries):
            raise ValueError(
                f"There are {len(entries)} pictures but {len(given)} {name}: give one for all, or "
                "one for each."
            )
        return list(given)
    found = [facts.get(CAPTION) for _, facts in entries]
    if None in found:
        raise ValueError(
            f"{what} does not say its captions as text, which training the text encoder needs: "
            f"take it from LoRA2 Dataset, or connect {name} of LoRA2 Text Encoder Options."
        )
    return found


def text_modules(text_model: nn.Module) -> dict[str, nn.Module]:
    """The adaptable layers of a CLIP by their names in files, in the model's order."""
    names = text_layer_names(text_model)
    modules = dict(text_model.named_modules())
    found = {names[path]: modules[path] for path in modules if path in names}
    return {name: module for name, module in found.items() if is_adaptable(module)}


class TextEncoder:
    """A CLIP that lies on loan beside the model `inner`: captions to conditioning, gradients
    possible. The CLIP that came in stays as it is.
    """

    def __init__(self, clip, loan: Loan):
        self.patcher, self.inner = loan.patchers[1], loan.inner
        self.clip = copy.copy(clip)
        self.clip.patcher, self.clip.cond_stage_model = self.patcher, self.patcher.model
        self.tokens: dict[str, Mapping] = {}

    def encode(self, caption: str) -> tuple[Tensor, dict]:
        """(what the model attends to [1, tokens, width], pooled_output and the like), as the host's
        encode_from_tokens makes them.
        """
        if caption not in self.tokens:
            self.tokens[caption] = self.clip.tokenize(caption)
        stage = self.clip.cond_stage_model
        stage.reset_clip_options()
        if self.clip.layer_idx is not None:
            stage.set_clip_options({"layer": self.clip.layer_idx})
        stage.set_clip_options({"execution_device": self.patcher.load_device})
        with OutOfPlace():
            cross, pooled, *more = stage.encode_token_weights(self.tokens[caption])
        return cross, {"pooled_output": pooled} | (more[0] if more else {})

    def told(self, entries: list[list], captions: list[str]) -> list[list]:
        """A conditioning for each entry that says its caption, encoded by this text encoder.
        ValueError where its captions are of another width.
        """
        made: dict[tuple[int, str], list] = {}
        encoded: dict[str, tuple[Tensor, dict]] = {}
        for entry, caption in zip(entries, captions, strict=True):
            if caption not in encoded:
                with torch.no_grad():
                    encoded[caption] = self.encode(caption)
            cross, facts = encoded[caption]
            if cross.shape[-1] != entry[0].shape[-1]:
                raise ValueError(
                    f"clip makes captions {cross.shape[-1]} wide, but positive is "
                    f"{entry[0].shape[-1]}: connect the CLIP that belongs to the model."
                )
            made[id(entry), caption] = [[cross, entry[1] | facts | {CAPTION: caption}]]
        return [made[id(e), caption] for e, caption in zip(entries, captions, strict=True)]

    def told_prior(self, prior: PriorSettings, settings: TextSettings) -> PriorSettings:
        """The prior with captions that this text encoder has encoded."""
        if not prior.used:
            return prior
        captions = settings.prior_texts(prior)
        entries = flatten_conditioning(prior.prior_positive, len(captions))
        return replace(prior, prior_positive=self.told(entries, captions))

    def renew(self, items: list[Item]) -> list[Item]:
        """The items with what their captions are now, each caption encoded once."""
        captions = dict.fromkeys(item.facts[CAPTION] for item in items)
        now = {caption: self.encode(caption) for caption in captions}
        fresh = []
        for item in items:
            cross, facts = now[item.facts[CAPTION]]
            entry = [cross, item.facts | facts]
            conditions = encode(self.inner, entry, item.latent, item.latent.device)
            fresh.append(replace(item, conditions=conditions))
        return fresh

    def conditioning(self, caption: str) -> list:
        """The host's own encoding, which loads what it needs: for previews."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
