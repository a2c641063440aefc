"""LoRA² Apply and LoRA² Load: an adapter onto a model, at any size."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core import RankedLora
from ..lora2_core.host.apply import adopt, apply_lora, cut_for, resolve
from ..lora2_core.host.store import lora_path
from .common import (
    CATEGORY,
    SHOWN_AGAIN,
    Lora2,
    check_adapter,
    check_clip,
    check_model,
    clip,
    file_state,
    keep,
    lora_name,
    missing_lora,
    model,
    read_lora,
    size_shown,
    strength,
)
from .fields import checked


def patched(
    model, clip, lora: RankedLora, strength_model: float, strength_clip: float, keep: float
):
    """(model, clip, the adapter at the size that was applied, ui output)."""
    found = resolve(lora, model, clip)
    cut = cut_for(lora, keep, found)
    strengths = strength_model, strength_clip
    return *apply_lora(model, clip, cut, *strengths, found), cut, size_shown(lora, clip, found)


class LoRA2Apply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Apply",
            display_name="LoRA\u00b2 Apply",
            category=CATEGORY,
            description="Applies a trained or loaded LoRA\u00b2 adapter to a model.",
            search_aliases=["apply lora", "lora strength", "lora size"],
            inputs=[
                model(),
                Lora2.Input("lora2", tooltip="From LoRA\u00b2 Train or LoRA\u00b2 Load."),
                clip(),
                strength("strength_model", "diffusion model"),
                strength("strength_clip", "text encoder"),
                keep(),
            ],
            outputs=[io.Model.Output(), io.Clip.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    @checked
    def execute(
        cls, model, lora2, strength_model=1.0, strength_clip=1.0, keep=1.0, clip=None
    ) -> io.NodeOutput:
        check_model(model)
        check_clip(clip)
        check_adapter(lora2)
        model, clip, _, shown = patched(model, clip, lora2, strength_model, strength_clip, keep)
        return io.NodeOutput(model, clip, ui=shown)


class LoRA2Load(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Load",
            display_name="LoRA\u00b2 Load",
            category=CATEGORY,
            description="Loads any LoRA file (kohya, diffusers or PEFT names), checks it and "
            "applies it at the wanted size.",
            search_aliases=["lora loader", "load lora", "lora size"],
            inputs=[
                model(),
                lora_name("A file in the loras folder."),
                clip(),
                strength("strength_model", "diffusion model"),
                strength("strength_clip", "text encoder"),
                keep(),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), Lora2.Output(display_name="lora2")],
            **SHOWN_AGAIN,
        )

    @classmethod
    def validate_inputs(cls, lora_name=None) -> bool | str:
        """Says what to do, where the host would say that a value is not in an empty list."""
        if lora_name is None or lora_path(lora_name):
            return True  # linked: execute sees it
        return missing_lora(lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_) -> str:
        return file_state(lora_name)

    @classmethod
    @checked
    def execute(
        cls, model, lora_name, strength_model=1.0, strength_clip=1.0, keep=1.0, clip=None
    ) -> io.NodeOutput:
        check_model(model)
        check_clip(clip)
        lora = adopt(read_lora(lora_name), model, clip)
        if not lora.singular:
            lora = lora.rotated()
        *outputs, shown = patched(model, clip, lora, strength_model, strength_clip, keep)
        shown = shown | {"lora2_file": [lora_name]}
        if notes := lora.origin.file.notes:
            shown["lora2_note"] = [*notes, *shown.get("lora2_note", [])]
        return io.NodeOutput(*outputs, ui=shown)


NODES = [LoRA2Apply, LoRA2Load]
