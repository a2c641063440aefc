"""Trains the text encoder beside the model: its layers, and captions that are encoded anew in
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
from ...layers import structure
from ...layers.layer import is_adaptable
from ...paths import quoted
from ..data.encoding import CAPTION
from ..data.references import SEEN
from ..naming import text_layer_names
from .captions import check_captions
from .examples import Example, encode
from .loan import Loan
from .out_of_place import OutOfPlace
from .pictures import Pictures

SHARE = 0.5  # times the model's learning rate: the text encoder's, where nobody chose one
ATTENTION = "self_attn"
OWN = -1.0  # a text_learning_rate that stands for SHARE of the model's


@dataclass(frozen=True)
class TextSettings:
    """Holds whether the text encoder is trained, and how.

    clip: the CLIP whose encoders are trained; None for none.
    captions, prior_captions: the texts of the pictures and those of the prior, one for all or one
        for each; None for the texts that the conditioning says itself.
    text_learning_rate: of its layers; OWN for SHARE of the model's. None where nobody chose it.
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
        """Returns whether the text encoder is trained."""
        return self.clip is not None

    def speed(self, learning_rate: float) -> float:
        """Returns how many times the model's learning rate the text encoder has. Raises ValueError
        where the model has none.
        """
        if self.text_learning_rate in (None, OWN):
            return SHARE
        if learning_rate == 0:
            raise ValueError(
                "learning_rate is 0, so that of the text encoder has no schedule to follow: set "
                "learning_rate of LoRA2 Train too."
            )
        return self.text_learning_rate / learning_rate

    def check(self, model) -> None:
        """Raises ValueError where the CLIP can't be trained with the model."""
        if self.used:
            check_clip(self.clip, model)
        elif self.text_learning_rate is not None:
            raise ValueError(
                "LoRA2 Text Encoder Options have no text encoder: connect clip to LoRA2 Train, "
                "or leave them out."
            )

    def texts(self, captions: list[list]) -> list[str]:
        """Returns the text of each caption. Raises ValueError where one has none."""
        return texts_of(captions, self.captions, "positive", "captions")

    def prior_texts(self, captions: list[list]) -> list[str]:
        """Returns the text of each caption of the prior. Raises ValueError where one has none."""
        return texts_of(captions, self.prior_captions, "prior_positive", "prior_captions")

    def chosen(self, text_model: nn.Module) -> dict[str, nn.Module]:
        """Returns the layers to train by their names in files. Raises ValueError where there are
        none.
        """
        layers = text_layers(text_model)
        usual = attention_of(text_model) if self.text_targets == ATTENTION else set()
        chosen = {n: m for n, m in layers.items() if m in usual or re.search(self.text_targets, n)}
        if not chosen:
            raise ValueError(
                f"targets {quoted(self.text_targets)} of the text encoder match none of its "
                f"layers: they have names such as {next(iter(layers))}."
            )
        return chosen

    def facts(self, learning_rate: float) -> dict:
        """Returns what tells one choice from another, {} where no text encoder is trained."""
        if not self.used:
            return {}
        rate = self.speed(learning_rate) * learning_rate
        return {"text_learning_rate": rate, "text_targets": self.text_targets}


def check_clip(clip, model) -> None:
    """Raises ValueError for what is no CLIP, and for a CLIP that is not trained here."""
    if not isinstance(clip, comfy.sd.CLIP):
        raise ValueError("clip is no CLIP: connect the one that belongs to the model.")
    if not text_layers(clip.cond_stage_model):
        raise ValueError(
            "This text encoder has no layer that ComfyUI reads in a LoRA file: leave clip of LoRA2 "
            "Train unconnected."
        )
    if clip.patcher.forced_hooks is not None:
        raise ValueError("clip has hooks, which training does not follow: connect it without them.")
    if clip.patcher.load_device != model.load_device:
        raise ValueError(
            f"The text encoder runs on {clip.patcher.load_device}, but the model on "
            f"{model.load_device}: start ComfyUI so that both run on one device (--gpu-only), or "
            "leave clip of LoRA2 Train unconnected."
        )


def texts_of(captions: list[list], given: list[str] | None, what: str, name: str) -> list[str]:
    """Returns the text of each caption: the given ones, else the one that its entry says. `what`
    and `name` are the inputs that an error names. Raises ValueError where texts are missing.
    """
    if given is not None:
        if not isinstance(given, list) or any(not isinstance(text, str) for text in given):
            raise ValueError(f"{name} holds something that is no text: connect a list of captions.")
        if len(given) == 1:
            return given * len(captions)
        if len(given) != len(captions):
            raise ValueError(
                f"There are {len(captions)} pictures but {len(given)} {name}: give one for all, or "
                "one for each."
            )
        return list(given)
    if any(SEEN in facts for _, facts in captions):
        raise ValueError(
            f"The text encoder has seen the sources of {what}, which is not repeated while it is "
            "trained: leave clip of LoRA2 Train unconnected."
        )
    texts = [facts.get(CAPTION) for _, facts in captions]
    if None in texts:
        raise ValueError(
            f"{what} does not say its captions as text, which training the text encoder needs: "
            f"take it from LoRA2 Dataset, or connect {name} of LoRA2 Text Encoder Options."
        )
    return texts


def text_layers(text_model: nn.Module) -> dict[str, nn.Module]:
    """Returns the adaptable layers of text encoders by their names in files, in their order."""
    names = text_layer_names(text_model)
    modules = dict(text_model.named_modules())
    named = {names[path]: modules[path] for path in modules if path in names}
    return {name: module for name, module in named.items() if is_adaptable(module)}


def attention_of(text_model: nn.Module) -> set[nn.Module]:
    """Returns the attention layers of text encoders, found by structure: T5 calls them otherwise
    than CLIPs and language models do.
    """
    modules = dict(text_model.named_modules())
    kinds = structure.ATTENTION, structure.FUSED
    return {modules[n] for n, place in structure.places(text_model).items() if place.kind in kinds}


class TextEncoder:
    """A CLIP that lies on loan beside the model `inner`: it encodes captions, gradients possible.
    The CLIP that came in stays as it is.
    """

    def __init__(self, clip, loan: Loan):
        self.patcher, self.inner = loan.patchers[1], loan.inner
        self.clip = copy.copy(clip)
        self.clip.patcher, self.clip.cond_stage_model = self.patcher, self.patcher.model
        self.tokens: dict[str, Mapping] = {}

    def encode(self, text: str) -> tuple[Tensor, dict]:
        """Returns (what the model attends to [1, tokens, width], pooled_output and the like), as
        the host's encode_from_tokens makes them.
        """
        if text not in self.tokens:
            self.tokens[text] = self.clip.tokenize(text)
        stage = self.clip.cond_stage_model
        stage.reset_clip_options()
        if self.clip.layer_idx is not None:
            stage.set_clip_options({"layer": self.clip.layer_idx})
        stage.set_clip_options({"execution_device": self.patcher.load_device})
        with OutOfPlace():
            cross, pooled, *more = stage.encode_token_weights(self.tokens[text])
        return cross, {"pooled_output": pooled} | (more[0] if more else {})

    def encoded(self, pictures: Pictures) -> Pictures:
        """Returns the pictures with captions that this text encoder has made of their texts. Raises
        ValueError where it makes captions of another width, or NaN.
        """
        encoded: dict[str, tuple[Tensor, dict]] = {}
        made: dict[tuple[int, str], list] = {}
        captions = []
        for entry, text in zip(pictures.captions, pictures.texts, strict=True):
            if text not in encoded:
                with torch.no_grad():
                    encoded[text] = self.encode(text)
            cross, facts = encoded[text]
            if cross.shape[-1] != entry[0].shape[-1]:
                raise ValueError(
                    f"clip makes captions {cross.shape[-1]} wide, but positive is "
                    f"{entry[0].shape[-1]}: connect the CLIP that belongs to the model."
                )
            key = id(entry), text
            if key not in made:
                made[key] = [cross, entry[1] | facts | {CAPTION: text}]
            captions.append(made[key])
        check_captions([[entry] for entry in captions])
        return replace(pictures, captions=captions)

    def renewed(self, examples: list[Example]) -> list[Example]:
        """Returns the examples with their captions as they are now, each text encoded once."""
        texts = dict.fromkeys(example.facts[CAPTION] for example in examples)
        encoded = {text: self.encode(text) for text in texts}
        fresh = []
        for example in examples:
            cross, facts = encoded[example.facts[CAPTION]]
            entry = [cross, example.facts | facts]
            conditions = encode(self.inner, entry, example.latent, example.shapes)
            fresh.append(replace(example, conditions=conditions))
        return fresh

    def conditioning(self, text: str) -> list:
        """Returns the host's own encoding, which loads what it needs: for previews."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
