"""LoRA² Dataset: a folder of pictures as latents and conditioning to train on."""

from __future__ import annotations

from functools import partial

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..lora2_core.dataset.buckets import resolutions_of
from ..lora2_core.dataset.folder import check_folder
from ..lora2_core.dataset.plan import AUTO, REFERENCES, DatasetSettings
from ..lora2_core.dataset.sources import BESIDE
from ..lora2_core.dataset.walking import state, with_pictures
from ..lora2_core.host.data.folder_dataset import make_dataset
from ..lora2_core.host.only_said import OnlySaid
from . import inputs
from .checking import checked, validated
from .sockets import CATEGORY


class LoRA2Dataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Dataset",
            display_name="LoRA\u00b2 Dataset",
            category=CATEGORY,
            description="Turns a folder of pictures with captions into training data for "
            "LoRA\u00b2 Train. Pictures are sorted by aspect ratio, encoded once and cached on "
            "disk.",
            search_aliases=[
                "load dataset", "dataset folder", "load images", "image folder", "training dataset",
                "aspect ratio buckets", "caption folder", "kohya dataset",
            ],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=with_pictures(folder_paths.get_input_directory()),
                    tooltip="A folder in ComfyUI's input folder. A .txt or .caption file "
                    "beside a picture is its caption. owl-masklabel.png is the mask of owl.png. "
                    "Pictures in a sub-folder called 3_owl count three times.",
                ),
                io.Clip.Input("clip", tooltip="Encodes the captions."),
                io.Vae.Input("vae", tooltip="Encodes the pictures: the VAE of the model to train."),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="The caption of pictures that have no .txt or .caption file beside "
                    "them.",
                ),
                io.Int.Input(
                    "resolution",
                    default=1024,
                    min=16,
                    max=8192,
                    step=8,
                    tooltip="Side of a square in pixels. Each picture is scaled to about the area "
                    "of this square. 1024 suits SDXL, 512 SD 1.5, 32 the Playground.",
                ),
                io.Boolean.Input(
                    "buckets",
                    default=True,
                    tooltip="on: each picture roughly keeps its shape. off: a square is cut from "
                    "its centre.",
                ),
                io.Boolean.Input(
                    "flip",
                    default=False,
                    tooltip="Adds every picture mirrored. Not for faces, text or anything that has "
                    "a left and a right.",
                ),
                io.Int.Input(
                    "crops",
                    default=0,
                    min=0,
                    max=100,
                    advanced=True,
                    tooltip="Number of random crops of every picture, added to the crop of its "
                    "centre.",
                ),
                io.Int.Input(
                    "shuffle_tags",
                    default=0,
                    min=0,
                    max=100,
                    advanced=True,
                    tooltip="Number of variants of every caption, added to it. Their "
                    "comma-separated tags are in another order; the first tag stays first.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="Entries with an empty caption are added until they are this share of "
                    "all entries.",
                ),
                inputs.seed("Seed of the crops, the tag orders and the choice of entries without a "
                    "caption.", advanced=True),
                io.Combo.Input(
                    "source_folder",
                    options=[BESIDE, *with_pictures(folder_paths.get_input_directory())],
                    default=BESIDE,
                    optional=True,
                    advanced=True,
                    tooltip="For edit models: where the pictures are that are to be changed. "
                    "owl_source.png beside owl.png, or owl.png in a second folder. The caption is "
                    "the instruction.",
                ),
                io.Combo.Input(
                    "references",
                    options=list(REFERENCES),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="How the model gets the sources. auto: as Qwen-Image-Edit Plus with "
                    "Qwen-Image's text encoder, else as reference latents (Kontext, Flux.2, "
                    "Krea 2, Omnigen2). inpaint: the picture without what is white in its mask.",
                ),
                inputs.more_resolutions(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latents",
                    is_output_list=True,
                    tooltip="One for each entry, which is a pair of a picture and a caption.",
                ),
                io.Conditioning.Output(
                    display_name="positive", is_output_list=True, tooltip="One for each entry."
                ),
                io.String.Output(
                    display_name="report", tooltip="Counts, sizes, captions, and the skipped files."
                ),
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="One for each entry, for LoRA\u00b2 Data Options: from the -masklabel "
                    "file of a picture, else from its transparency. White if it has neither.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, folder=None, source_folder=BESIDE, more_resolutions=None
    ) -> bool | str:
        """Checks before anything runs that the folders exist. They may be gone since the list of
        folders was made.
        """
        check = partial(check_folder, folder_paths.get_input_directory())
        second = [] if source_folder == BESIDE else [(check, source_folder)]
        return validated(*second, (check, folder), (resolutions_of, more_resolutions))

    @classmethod
    def fingerprint_inputs(cls, folder=None, source_folder=BESIDE, **_) -> str:
        """Returns a text that changes when a file in the folders changes."""
        root = folder_paths.get_input_directory()
        try:
            folders = [folder] if source_folder == BESIDE else [folder, source_folder]
            return " ".join(state(check_folder(root, name)) for name in folders)
        except ValueError:
            return repr((folder, source_folder))

    @classmethod
    @checked
    def execute(cls, folder, clip, vae, **settings) -> io.NodeOutput:
        say = OnlySaid()
        bar = comfy.utils.ProgressBar(1)

        def progress(done: int, of: int) -> None:
            say(bar.update_absolute, done, of)
            comfy.model_management.throw_exception_if_processing_interrupted()

        made = make_dataset(folder, clip, vae, DatasetSettings(**settings), progress)
        outputs = made.latents, made.positive, made.report, made.masks
        return io.NodeOutput(*outputs, ui={"text": (made.report,)})


NODES = [LoRA2Dataset]
