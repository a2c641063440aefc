"""LoRA² Evaluate and LoRA² Compare: score pictures, and compare adapters by their scores."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..lora2_core.charts.score_chart import Scored, score_chart, score_csv, score_table
from ..lora2_core.charts.scores import Encoders, Judge, Score, by_prompt
from ..lora2_core.host.encoders import check_clip_vision, check_dino, image_features, text_features
from ..lora2_core.host.local_encoders import NONE, clip_features, dino_features, folder_of, folders
from ..lora2_core.host.only_said import OnlySaid
from ..lora2_core.paths import quoted
from .checking import checked
from .sockets import CATEGORY, Lora2, check_adapter, check_images, check_texts, first

Scores = io.Custom("LORA2_SCORES")


def encoders_of(
    clip_vision=None, clip=None, dino=None, clip_folder: str = NONE, dino_folder: str = NONE
) -> Encoders:
    """Returns the encoders for the scores. A chosen folder is used instead of a connected model."""
    encoders: dict = {}
    if dino_folder != NONE:
        encoders["dino"] = dino_features(folder_of(dino_folder))
    elif dino is not None:
        check_dino(dino)
        encoders["dino"] = image_features(dino)
    if clip_folder != NONE:
        encoders["clip"], encoders["text"] = clip_features(folder_of(clip_folder))
    elif clip_vision is not None:
        check_clip_vision(clip_vision)
        encoders["clip"] = image_features(clip_vision)
        if clip is not None:
            encoders["text"] = text_features(clip, clip_vision)
    return Encoders(**encoders)


def check_scores(scores: object) -> None:
    """Raises ValueError unless the scores come from LoRA² Evaluate."""
    if not isinstance(scores, tuple) or not all(isinstance(s, Scored) for s in scores):
        raise ValueError(f"scores is {quoted(scores)}: connect LoRA2 Evaluate.")


class LoRA2Evaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Evaluate",
            display_name="LoRA\u00b2 Evaluate",
            category=CATEGORY,
            description="Scores pictures with the three scores that papers use. DINO and CLIP-I "
            "say how much the pictures look like the subject. CLIP-T says how well they fit their "
            "prompts.",
            search_aliases=[
                "clip score", "dino score", "image similarity", "lora quality", "judge",
            ],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The pictures to score, as a batch or a list. First come the pictures "
                    "of the first prompt, then those of the second, and so on. Each prompt has "
                    "the same number of pictures.",
                ),
                io.Image.Input(
                    "references", tooltip="Real pictures of the subject, as a batch or a list."
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="The prompts of the images, one on each line.",
                ),
                io.String.Input(
                    "name", default="adapter", tooltip="Name of the adapter in tables and charts."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From Load CLIP Vision. For CLIP-I, and together with clip for CLIP-T.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="For CLIP-T: the text encoder of the same CLIP. SDXL's CLIP belongs to "
                    "CLIP ViT-bigG.",
                ),
                io.ClipVision.Input(
                    "dino", optional=True, tooltip="For DINO: a DINOv2 from Load CLIP Vision."
                ),
                io.Combo.Input(
                    "clip_folder",
                    options=folders(),
                    default=NONE,
                    tooltip="A CLIP in transformers' form, in a folder of its own in "
                    "models/clip_vision. Used instead of clip_vision and clip.",
                ),
                io.Combo.Input(
                    "dino_folder",
                    options=folders(),
                    default=NONE,
                    tooltip="A DINO in transformers' form, in a folder of its own in "
                    "models/clip_vision. Used instead of dino.",
                ),
                Lora2.Input(
                    "lora2",
                    optional=True,
                    tooltip="The adapter that drew the images, for its size in tables and charts.",
                ),
                Scores.Input(
                    "scores",
                    optional=True,
                    tooltip="The scores of another LoRA\u00b2 Evaluate. The output scores has them "
                    "too, for LoRA\u00b2 Compare.",
                ),
            ],
            outputs=[
                Scores.Output(display_name="scores"),
                io.String.Output(
                    display_name="table", tooltip="One row for each prompt, and their mean."
                ),
                io.Float.Output(display_name="dino", tooltip="NaN if it was not measured."),
                io.Float.Output(display_name="clip_i", tooltip="NaN if it was not measured."),
                io.Float.Output(display_name="clip_t", tooltip="NaN if it was not measured."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, images, references, prompts, name, scores=None, lora2=None, **encoders):
        earlier = (scores or [()])[0]
        check_scores(earlier)
        check_images("images", images)
        check_images("references", references)
        check_texts("prompts", prompts)
        check_texts("name", name)
        size = None
        if lora2 is not None:
            check_adapter(first("lora2", lora2))
            size = lora2[0].megabytes()
        lines = [line.strip() for line in "\n".join(prompts).splitlines() if line.strip()]
        shares = by_prompt(images, lines)
        chosen = {key: values[0] for key, values in encoders.items() if values}
        judge = Judge(encoders_of(**chosen), references)
        bar, say, rows = comfy.utils.ProgressBar(len(shares)), OnlySaid(), []
        for prompt, pictures in shares:
            rows.append(Scored(prompt, None, judge.of_prompt(pictures, prompt)))
            say(bar.update, 1)
            comfy.model_management.throw_exception_if_processing_interrupted()
        mean = Score.mean([row.score for row in rows])
        table = score_table([*rows, Scored("mean", size, mean)])
        text = ", ".join(f"{k} {v:.4f}" for k, v in mean.values().items())
        numbers = (float("nan") if v is None else v for v in vars(mean).values())
        scores = (*earlier, Scored(name[0], size, mean))
        return io.NodeOutput(scores, table, *numbers, ui={"text": (f"{name[0]}: {text}",)})


class LoRA2Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Compare",
            display_name="LoRA\u00b2 Compare",
            category=CATEGORY,
            description="Compares adapters: a table of their scores, and a chart of score against "
            "size.",
            search_aliases=["compare loras", "lora benchmark", "score chart", "quality vs size"],
            is_output_node=True,
            inputs=[
                Scores.Input(
                    "scores",
                    tooltip="From LoRA\u00b2 Evaluate. For several adapters, connect the scores of "
                    "one LoRA\u00b2 Evaluate to the input scores of the next.",
                ),
                io.String.Input(
                    "title", default="Score against size", tooltip="Written over the chart."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="chart"),
                io.String.Output(display_name="table"),
                io.String.Output(
                    display_name="csv", tooltip="name, megabytes, dino, clip_i and clip_t."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    @checked
    def execute(cls, scores, title) -> io.NodeOutput:
        check_scores(scores)
        check_texts("title", [title])
        drawn = torch.from_numpy(score_chart(scores, title))[None].float() / 255
        shown = ui.PreviewImage(drawn, cls=cls).as_dict()
        return io.NodeOutput(drawn, score_table(scores), score_csv(scores), ui=shown)


NODES = [LoRA2Evaluate, LoRA2Compare]
