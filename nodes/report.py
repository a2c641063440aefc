"""LoRA² Report: shows how a training went, on one page."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..lora2_core.adapter.history import History, check_tensorboard
from ..lora2_core.charts.report import page
from ..lora2_core.host.data.preview_grid import preview_grid
from ..lora2_core.host.lora_files import lora_file
from ..lora2_core.host.output import numbered_files
from ..lora2_core.host.reports import keep_report, keep_scalars, pictures
from .checking import CheckedFirst, checked, validated
from .sockets import CATEGORY, Lora2, check_adapter


class LoRA2Report(CheckedFirst, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Report",
            display_name="LoRA\u00b2 Report",
            category=CATEGORY,
            description="How a training went, on one page: loss and mean rank over the steps, the "
            "learned ranks, held-out losses, and samples. Saves it as a picture, tables (CSV) and "
            "TensorBoard's scalars, if you wish.",
            search_aliases=["loss curve", "training log", "loss graph", "csv", "tensorboard"],
            is_output_node=True,
            inputs=[
                Lora2.Input(
                    "lora2",
                    lazy=True,
                    tooltip="From LoRA\u00b2 Train, or from LoRA\u00b2 Load with a file of "
                    "LoRA\u00b2 Train.",
                ),
                io.Image.Input(
                    "before",
                    optional=True,
                    lazy=True,
                    tooltip="Samples without the adapter: up to four.",
                ),
                io.Image.Input(
                    "after",
                    optional=True,
                    lazy=True,
                    tooltip="Samples with the adapter: up to four.",
                ),
                io.String.Input(
                    "lora_name",
                    optional=True,
                    lazy=True,
                    force_input=True,
                    tooltip="From LoRA\u00b2 Save. The files of this report are then saved beside "
                    "that file.",
                ),
                io.Boolean.Input(
                    "save",
                    default=False,
                    tooltip="Writes the page (.report.png) and the table (.report.csv): beside the "
                    "file of lora_name, else in the output folder.",
                ),
                io.Boolean.Input(
                    "tensorboard",
                    default=False,
                    tooltip="Writes scalars for TensorBoard to output/lora2/tensorboard. Needs the "
                    "package tensorboard.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="lora2/reports/report",
                    tooltip="Folder and name in the output folder; the name is also the title.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="page"),
                io.String.Output(
                    display_name="csv",
                    tooltip="step, loss and mean_rank, one line for each step; validation_loss "
                    "where pictures were held out.",
                ),
                io.String.Output(
                    display_name="picture_csv",
                    tooltip="The loss of each picture, the least learned first; empty unless "
                    "picture_losses of LoRA\u00b2 Validation Options was on.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None, tensorboard=None) -> bool | str:
        """Checks before anything runs that the report can be written, so that it does not cost a
        training.
        """

        def check_scalars(wanted: bool) -> None:
            if wanted is True:
                check_tensorboard()

        return validated((numbered_files, filename_prefix), (check_scalars, tensorboard))

    @classmethod
    @checked
    def execute(
        cls,
        lora2,
        before=None,
        after=None,
        lora_name=None,
        save=False,
        tensorboard=False,
        filename_prefix="lora2/reports/report",
    ) -> io.NodeOutput:
        check_adapter(lora2)
        history = History.of(lora2)
        folder, start = numbered_files(filename_prefix)
        start, named = folder / start, filename_prefix
        if lora_name not in (None, ""):
            start, named = Path(lora_file(lora_name)).with_suffix(""), lora_name
        title = Path(named).name.removesuffix(".safetensors")
        samples = {"before": pictures(before), "after": pictures(after)}
        drawn = page(lora2, title, samples, preview_grid(lora2))
        if save:
            keep_report(drawn, history, start)
        if tensorboard:
            keep_scalars(history, title)
        image = torch.from_numpy(drawn)[None].float() / 255
        table = history.pictures.csv() if history.pictures else ""
        return io.NodeOutput(image, history.csv(), table, ui=ui.PreviewImage(image, cls=cls))


NODES = [LoRA2Report]
