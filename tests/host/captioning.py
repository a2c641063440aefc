"""The example workflow whose captions are written by the model's own text encoder."""

from __future__ import annotations

from tests.host.template_graph import NARROW, WIDE, Graph

NAME = "LoRA2 Krea 2 captions"
COLUMNS = (20, 430, 850, 1370)  # left edges of the four groups
GROUPS = (
    ("1  Captions", "#3f789e"), ("2  Keep them, encode them", "#8AA"), ("3  Train", "#8A8"),
    ("4  What came out", "#b58b2a"),
)  # fmt: skip
ASKED = (
    "Describe what is in this picture in one or two plain sentences, as a caption. Leave out its "
    "style and how it was made."
)
WORDS = 120  # tokens, of a caption
MEGAPIXELS, STEPS = 1.0, 16  # of a picture; its sides are multiples of STEPS pixels
ABOUT = (
    "## Captions by a model\n\nFor pictures **without captions**. Krea 2's text encoder sees "
    "pictures and writes text, so one file does both: **Generate Text** asks it for a caption of "
    "each picture, and the same encoder reads the captions for the training. Change the question "
    "in Generate Text: for a style, the captions leave the style out; for a subject, let them "
    "begin with its name.\n\n**Before you start:** the three files of the loaders, and your "
    "pictures in *input/{folder}*.\n\n**Run** (Ctrl+Enter). Pictures and captions are also saved "
    "in *output/{folder}*.\n\n**To edit captions first:** mute groups 3 and 4 (Ctrl+M) and run. "
    "Then use LoRA\u00b2 Dataset in the place of Make Training Dataset: drop the files of "
    "*output/{folder}* on it, and press its button **Captions**.\n\nTested on small copies of this "
    "model, not on its real weights yet.\n"
)


def captioning(files, kinds: dict) -> dict:
    """Returns the workflow. files: the Template with the model's three files and its folder."""
    graph = Graph(kinds)
    first, second, third, fourth = COLUMNS
    graph.note(ABOUT.format(folder=files.folder))
    pictures = graph.add(
        "LoadImageDataSetFromFolder", (first, 0), (NARROW, 82), {"folder": files.folder}
    )
    scaled = graph.add(
        "ImageScaleToTotalPixels", (first, 180), (NARROW, 130),
        {"image": (pictures, 0), "upscale_method": "area", "megapixels": MEGAPIXELS,
         "resolution_steps": STEPS},
    )  # fmt: skip
    clip = graph.add(
        "CLIPLoader", (first, 410), (NARROW, 106),
        {"clip_name": files.clip[0], "type": files.kind, "device": "default"},
        [(files.clip, "text_encoders")],
    )  # fmt: skip
    texts = graph.add(
        "TextGenerate", (first, 620), (NARROW, 440),
        {"clip": (clip, 0), "image": (scaled, 0), "prompt": ASKED, "max_length": WORDS,
         "sampling_mode": "off"},
    )  # fmt: skip
    graph.add(
        "SaveImageTextDataSetToFolder", (second, 0), (NARROW, 170),
        {"images": (scaled, 0), "texts": (texts, 0), "folder_name": files.folder},
    )  # fmt: skip
    vae = graph.add(
        "VAELoader", (second, 270), (NARROW, 58), {"vae_name": files.vae[0]}, [(files.vae, "vae")]
    )
    data = graph.add(
        "MakeTrainingDataset", (second, 430), (NARROW, 110),
        {"images": (scaled, 0), "vae": (vae, 0), "clip": (clip, 0), "texts": (texts, 0)},
    )  # fmt: skip
    model = graph.add(
        "UNETLoader", (second, 640), (NARROW, 82),
        {"unet_name": files.model[0], "weight_dtype": "default"},
        [(files.model, "diffusion_models")],
    )  # fmt: skip
    train = graph.add(
        "LoRA2Train", (third, 0), (WIDE, 1060),
        {"model": (model, 0), "latents": (data, 0), "positive": (data, 1), "steps": files.steps,
         "target_rank": files.rank, "max_rank": 64},
    )  # fmt: skip
    graph.add(
        "LoRA2Save", (fourth, 0), (WIDE, 200),
        {"lora2": (train, 0), "filename_prefix": "lora2/krea_2_captions"},
    )  # fmt: skip
    graph.add("LoRA2RankHeatmap", (fourth, 320), (WIDE, 640), {"lora2": (train, 0)})
    widths = (NARROW, NARROW, WIDE, WIDE)
    return graph.workflow(
        [(*group, x, wide) for group, x, wide in zip(GROUPS, COLUMNS, widths, strict=True)]
    )
