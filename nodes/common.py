"""What the forms share: the socket types and the fields that more than one node has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lora2_core import RankedLora, load
from ..lora2_core.adapter.model_order import of_text_encoder
from ..lora2_core.adapter.size_curve import size_curve
from ..lora2_core.host.store import lora_path, no_loras
from ..lora2_core.paths import quoted

CATEGORY = "LoRA\u00b2"
Lora2 = io.Custom("LORA2")
Lora2Options = io.Custom("LORA2_OPTIONS")
LoraModel = io.Custom("LORA_MODEL")
# what such a node shows is sent again from the cache; ComfyUI before 0.20 can't do that
SHOWN_AGAIN = {f.name: True for f in fields(io.Schema) if f.name == "has_intermediate_output"}


def check_adapter(lora2: object) -> None:
    """ValueError unless it is an adapter: a socket of the right name may carry anything."""
    if not isinstance(lora2, RankedLora):
        raise ValueError("lora2 is no LoRA2 adapter: connect LoRA2 Train or LoRA2 Load.")


def check_model(model: object) -> None:
    """ValueError unless it is the host's MODEL."""
    if not isinstance(model, ModelPatcher):
        raise ValueError(f"model is {quoted(model)}: connect a loader that gives a MODEL.")


def check_clip(clip: object) -> None:
    """ValueError unless it is the host's CLIP, or none."""
    if clip is not None and not hasattr(clip, "cond_stage_model"):
        raise ValueError(f"clip is {quoted(clip)}: connect a loader that gives a CLIP, or nothing.")


def check_images(name: str, batches: object) -> None:
    """ValueError unless it is a list of the host's IMAGEs [B, height, width, 3 or 4]."""
    for images in batches if isinstance(batches, list) else [batches]:
        if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[-1] < 3:
            raise ValueError(f"{name} holds no IMAGE: connect VAE Decode or Load Image.")


def check_texts(name: str, texts: object) -> None:
    """ValueError unless it is a list of texts."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        raise ValueError(f"{name} is {quoted(texts)}: give a text.")


def first(name: str, values: object) -> object:
    """The value of an input of a node that takes lists; ValueError where the list is empty."""
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{name} is empty: connect something that gives it, or give it here.")
    return values[0]


def check_options(options: object) -> dict:
    """The options of a chain, {} for none; ValueError unless option nodes made them."""
    if options is None:
        return {}
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"options is {quoted(options)}: connect LoRA2 option nodes.")
    return options


def lora_file(name: str | None) -> str:
    """The full path of a file in the loras folder; ValueError when it isn't there."""
    if (path := lora_path(name)) is None:
        raise ValueError(missing_lora(name))
    return str(path)


def read_lora(name: str | None) -> RankedLora:
    """Returns the adapter of a file in the loras folder; what is said of it names the file."""
    lora = load(lora_file(name))
    file = replace(lora.origin.file, name=name)
    return replace(lora, origin=replace(lora.origin, file=file))


def missing_lora(name: str | None) -> str:
    """What to do about a file that isn't in the loras folder."""
    if name in (None, "") and no_loras():
        return (
            "The loras folder is empty: train a LoRA and keep it with LoRA2 Save, or put a file "
            "there; then press R."
        )
    return (
        f"There is no file {quoted(name)} in the loras folder: choose one from the list (R renews "
        "it)."
    )


def file_state(name: str | None) -> str:
    """Changes when the file does, so that it is read again."""
    path = lora_path(name)
    return f"{name} {path.stat().st_mtime_ns}" if path else str(name)


class FileOrSocket:
    """A node that takes a file of the loras folder, or an adapter that is connected instead."""

    @classmethod
    def validate_inputs(cls, lora_name=None) -> bool:
        """The list is not checked here: with an adapter connected the file may be missing."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_) -> str:
        return file_state(lora_name)


def lora_name(tooltip: str, *, optional: bool = False) -> io.Combo.Input:
    """The list of the loras folder."""
    files = folder_paths.get_filename_list("loras")
    return io.Combo.Input("lora_name", options=files, optional=optional, tooltip=tooltip)


def budget(tooltip: str) -> io.Float.Input:
    """A size limit in MB, 0 for none."""
    return io.Float.Input(
        "budget_mb", default=0.0, min=0.0, max=100000.0, step=0.01, tooltip=tooltip
    )


def model() -> io.Model.Input:
    """The model that an adapter goes onto."""
    tooltip = "The model to change; it leaves this node unchanged, its clone patched."
    return io.Model.Input("model", tooltip=tooltip)


def clip() -> io.Clip.Input:
    """The text encoder, for adapters that have one."""
    tooltip = "Only needed for adapters that also train text encoders."
    return io.Clip.Input("clip", optional=True, tooltip=tooltip)


def strength(name: str, what: str) -> io.Float.Input:
    """A strength field with the host's own range."""
    tooltip = f"How strongly the adapter changes the {what}; 0 is off, negative inverts."
    return io.Float.Input(name, default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)


def keep() -> io.Float.Input:
    """The size slider."""
    return io.Float.Input(
        "keep",
        default=1.0,
        min=0.01,
        max=1.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip="Share of the adapter's parameters to keep: the least important rank positions of "
        "the whole model "
        "go first.",
    )


def size_shown(lora: RankedLora, clip: object, found: Collection[str]) -> dict:
    """ui output: what every setting of `keep` leaves of an adapter, and a word on layers that are
    not used. found: those that model and clip have.
    """
    notes: list[str | list] = []
    left = [name for name in lora.layers if name not in found]
    if clip is None and any(map(of_text_encoder, lora.layers)):
        notes.append("It has layers for the text encoder: connect clip to use them.")
        left = [name for name in left if not of_text_encoder(name)]
    if left:
        said = "{0} of its {1} layers are not in this model, the first is {2}: they change nothing."
        notes.append([said, len(left), len(lora.layers), left[0]])
    shown = {"lora2_size_curve": [vars(size_curve(lora))]}
    return shown | ({"lora2_note": notes} if notes else {})
