"""LoRA² Playground and LoRA² Example Pictures: a model and pictures to try the pack with."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.playground import asset, subjects
from .checking import checked
from .sockets import CATEGORY


class LoRA2Playground(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Playground",
            display_name="LoRA\u00b2 Playground",
            category=CATEGORY,
            description="A tiny text-to-image model with SDXL's architecture that ships with the "
            'pack. It draws 32 x 32 emoji from prompts such as "koala, noto style, red '
            'background". Styles: noto, fluent-flat, fluent-3d, twemoji.',
            search_aliases=["tiny model", "demo model", "test checkpoint"],
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..lora2_core.host.playground import load_playground

        return io.NodeOutput(*load_playground(asset.load()))


class LoRA2ExamplePictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2ExamplePictures",
            display_name="LoRA\u00b2 Example Pictures",
            category=CATEGORY,
            description="Pictures with captions of a subject that the Playground has never seen, "
            "or photographs of a bear plushie for a real model. Connect them to Make Training "
            "Dataset.",
            search_aliases=["example dataset", "demo images"],
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=subjects.NAMES,
                    default="owl",
                    tooltip="What the pictures show.",
                ),
                io.Int.Input(
                    "pictures",
                    default=8,
                    min=1,
                    max=subjects.MOST_PICTURES,
                    tooltip="Number of pictures. They have the four styles in turn, each on "
                    "another background. There are at most 5 photographs.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True),
                io.String.Output(display_name="texts", is_output_list=True),
            ],
        )

    @classmethod
    @checked
    def execute(cls, subject: str, pictures: int) -> io.NodeOutput:
        images, captions = subjects.examples(subject, pictures)
        return io.NodeOutput([image[None] for image in images], captions)


NODES = [LoRA2Playground, LoRA2ExamplePictures]
