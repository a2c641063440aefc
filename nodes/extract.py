"""LoRA² Extract: makes a LoRA of the difference between two models."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from comfy_api.latest import io

from ..lora2_core.adapter.dense import MOST_RANK
from ..lora2_core.adapter.extracting import Extracted, ExtractSettings, extract
from ..lora2_core.charts import size_error
from ..lora2_core.charts.info import kinds_of
from ..lora2_core.host.extracting import as_adapter
from ..lora2_core.host.model_pairs import (
    Weights,
    in_common,
    matching,
    model_files,
    model_path,
    of_file,
    of_model,
)
from ..lora2_core.host.progress import LayerProgress
from . import inputs
from .checking import checked
from .sockets import CATEGORY, Lora2, check_model

NEARLY = 1e-3  # of a relative error: what may be rounding


def weights_of(name: str, model, file: str | None, opened: ExitStack) -> Weights:
    """Returns the weights of a model that is connected, or else of a file."""
    if model is not None:
        check_model(model)
        return of_model(name, model)
    if file in (None, ""):
        raise ValueError(
            f"{name} is not connected, and no file is chosen for it: connect a MODEL, or choose a "
            "file."
        )
    return of_file(file, opened)


def lines_of(tuned: Weights, base: Weights, out: Extracted, settings: ExtractSettings) -> list[str]:
    """Returns what the node shows of an extraction."""
    left = len(tuned.shapes.keys() ^ base.shapes.keys())
    used = len(out.lora.layers)
    lines = [
        f"{out.lora.megabytes():.2f} MB, relative error {out.error:.3f}",
        f"{out.compared} weights compared: {used} with a difference, {out.same} the same, "
        f"{out.rounded} differ by rounding alone",
    ]
    if settings.budget_mb == 0 and out.error > settings.tolerance + NEARLY:
        lines.append(f"the tolerance is not reached: a layer keeps {MOST_RANK} positions at most")
    if left:
        lines.append(f"{left} weights are in one of the models only: left out")
    if out.lora.others:
        lines.append(f"not cut: {kinds_of(out.lora)}")
    return lines + size_error.lines(*out.curve)


class LoRA2Extract(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files()
        return io.Schema(
            node_id="LoRA2Extract",
            display_name="LoRA\u00b2 Extract",
            category=CATEGORY,
            description="Makes a LoRA of the difference between a tuned model and its base, with "
            "the rank that each layer needs.",
            search_aliases=["extract lora", "model difference", "checkpoint to lora", "svd"],
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The tuned model, with all LoRAs that are applied to it.",
                ),
                io.Model.Input("base", optional=True, tooltip="The model that it was tuned from."),
                io.Combo.Input(
                    "model_file",
                    options=files,
                    optional=True,
                    tooltip="The tuned model's file, read layer by layer. Not used when model is "
                    "connected.",
                ),
                io.Combo.Input(
                    "base_file",
                    options=files,
                    optional=True,
                    tooltip="The base model's file. Not used when base is connected.",
                ),
                io.String.Input(
                    "layers",
                    default="",
                    tooltip="Regular expression for the names of the layers to take, such as attn. "
                    "Empty: all.",
                ),
                io.Float.Input(
                    "budget_mb",
                    default=100.0,
                    min=0.0,
                    max=100000.0,
                    step=0.01,
                    tooltip="Largest size of the result in MB (fp16). 0: no limit, which takes "
                    "more memory.",
                ),
                inputs.number(
                    "tolerance",
                    default=0.0,
                    max=0.999,
                    tooltip="Allowed relative error (Frobenius norm) of the whole difference. 0: "
                    "only budget_mb decides.",
                ),
                io.Boolean.Input(
                    "rest",
                    default=False,
                    tooltip="Take biases and norms as well. They are stored as they are.",
                ),
            ],
            outputs=[
                Lora2.Output(display_name="lora2"),
                io.Image.Output(display_name="picture", tooltip="The energy that each size keeps."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_file=None, base_file=None) -> bool:
        """Accepts any names: where models are connected, no file is read."""
        return True

    @classmethod
    def fingerprint_inputs(cls, model_file=None, base_file=None, **_) -> str:
        """Returns a text that changes when one of the files does."""
        return f"{state_of(model_file)} {state_of(base_file)}"

    @classmethod
    @checked
    def execute(
        cls,
        layers="",
        budget_mb=100.0,
        tolerance=0.0,
        rest=False,
        model=None,
        base=None,
        model_file=None,
        base_file=None,
    ) -> io.NodeOutput:
        settings = ExtractSettings(budget_mb, tolerance, rest)
        for file in (model_file, base_file):
            if file not in (None, ""):
                model_path(file)  # a name that is no file is told before anything else
        with ExitStack() as opened, torch.inference_mode():
            tuned = weights_of("model", model, model_file, opened)
            source = weights_of("base", base, base_file, opened)
            shapes = matching(in_common(tuned, source), layers)
            out = extract(
                shapes, lambda name: (tuned.read(name), source.read(name)), settings,
                LayerProgress(),
            )  # fmt: skip
        lora = as_adapter(out, model if model is not None else base, tuned, source, settings)
        drawn = size_error.picture(*out.curve, lora.megabytes(), "Energy of the difference")
        image = torch.from_numpy(drawn)[None].float() / 255
        text = "\n".join(lines_of(tuned, source, out, settings))
        return io.NodeOutput(lora, image, ui={"text": (text,)})


def state_of(name: object) -> str:
    """Returns a text that changes when a file does; the name alone where there is no such file."""
    try:
        return f"{name} {model_path(name).stat().st_mtime_ns}"
    except (ValueError, OSError):
        return str(name)


NODES = [LoRA2Extract]
