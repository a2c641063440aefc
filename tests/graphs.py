"""The quick-start graph in ComfyUI's API format, for the demo and for the tests that run it.

    pictures → MakeTrainingDataset → LoRA2Train → heatmap, saved adapter, samples before and after

Nodes are called by what they do, so that outputs and errors read well: Graph["after"].
"""

from __future__ import annotations

from dataclasses import dataclass

Graph = dict[str, dict]

TRAIN, SAVE, HEATMAP, BEFORE, AFTER = "train", "save", "heatmap picture", "before", "after"
ADAPTER_PREFIX = "lora2/"  # below the loras folder


@dataclass(frozen=True)
class Source:
    """What to train on: the embedded playground, or a checkpoint with a folder of pictures.

    Attributes:
        prompt: what the samples show; also the caption of pictures that have none.
        size: width and height of pictures and samples, in pixels.
        shown: width and height at which samples are saved.
        checkpoint: a name in the checkpoints folder; None for the playground.
        folder: a name in the input folder, with pictures and .txt captions.
        subject: which of the playground's example pictures.
    """

    prompt: str
    size: int
    shown: int
    checkpoint: str | None = None
    folder: str | None = None
    subject: str = ""
    pictures: int = 8


def playground(subject: str = "owl", pictures: int = 8) -> Source:
    """The embedded model and its example pictures; only here is it said how they are captioned."""
    prompt = f"{subject}, noto style, blue background"
    return Source(prompt, size=32, shown=256, subject=subject, pictures=pictures)


def own(checkpoint: str, folder: str, prompt: str, size: int = 512) -> Source:
    """A user's checkpoint and pictures."""
    return Source(prompt, size=size, shown=size, checkpoint=checkpoint, folder=folder)


def quick_start(
    source: Source | None = None,
    *,
    steps: int = 400,
    batch_size: int = 8,
    learning_rate: float = 5e-3,
    mode: str = "adaptive",
    target_rank: int = 4,
    budget_mb: float = 0.0,
    max_rank: int = 32,
    seed: int = 0,
    layers: str = "auto",
    name: str = "owl",
) -> Graph:
    """Trains an adapter and shows it: see the module's picture. The playground unless told."""
    source = source or playground()
    graph: Graph = {}
    model, clip, vae = _model(graph, source)
    images, texts = _pictures(graph, source)
    graph["dataset"] = _node("MakeTrainingDataset", images=images, vae=vae, clip=clip, texts=texts)
    graph[TRAIN] = _node(
        "LoRA2Train",
        model=model,
        latents=["dataset", 0],
        positive=["dataset", 1],
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        mode=mode,
        target_rank=target_rank,
        budget_mb=budget_mb,
        max_rank=max_rank,
        seed=seed,
        layers=layers,
    )
    graph["heatmap"] = _node("LoRA2RankHeatmap", lora2=[TRAIN, 0])
    graph[HEATMAP] = _node("SaveImage", images=["heatmap", 0], filename_prefix="heatmap")
    graph[SAVE] = _node(
        "LoRA2Save",
        lora2=[TRAIN, 0],
        filename_prefix=ADAPTER_PREFIX + name,
        format="kohya",
        dtype="fp16",
        max_mb=0.0,
    )
    graph["prompt"] = _node("CLIPTextEncode", text=source.prompt, clip=clip)
    graph["nothing"] = _node("CLIPTextEncode", text="", clip=clip)
    graph["noise"] = _node("EmptyLatentImage", width=source.size, height=source.size, batch_size=4)
    _samples(graph, BEFORE, model, vae, source, seed)
    _samples(graph, AFTER, [TRAIN, 2], vae, source, seed)
    return graph


def _node(class_type: str, **inputs: object) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def _model(graph: Graph, source: Source) -> tuple[list, list, list]:
    """Adds the loader; returns the links to MODEL, CLIP and VAE."""
    if source.checkpoint is None:
        graph["model"] = _node("LoRA2Playground")
    else:
        graph["model"] = _node("CheckpointLoaderSimple", ckpt_name=source.checkpoint)
    return ["model", 0], ["model", 1], ["model", 2]


def _pictures(graph: Graph, source: Source) -> tuple[list, list]:
    """Adds the pictures, all of one size; returns the links to images and texts."""
    if source.folder is None:
        graph["pictures"] = _node(
            "LoRA2ExamplePictures", subject=source.subject, pictures=source.pictures
        )
        return ["pictures", 0], ["pictures", 1]
    graph["pictures"] = _node("LoadImageTextDataSetFromFolder", folder=source.folder)
    graph["crop"] = _scale(["pictures", 0], source.size, "lanczos", "center")
    return ["crop", 0], ["pictures", 1]


def _scale(image: list, size: int, method: str, crop: str) -> dict:
    return _node(
        "ImageScale", image=image, upscale_method=method, width=size, height=size, crop=crop
    )


def _samples(graph: Graph, name: str, model: list, vae: list, source: Source, seed: int) -> None:
    """Adds sampler, decoder and SaveImage under `name`; before and after share noise and prompt."""
    graph[f"{name} sampler"] = _node(
        "KSampler",
        model=model,
        positive=["prompt", 0],
        negative=["nothing", 0],
        latent_image=["noise", 0],
        seed=seed,
        steps=20,
        cfg=4.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    graph[f"{name} decoder"] = _node("VAEDecode", samples=[f"{name} sampler", 0], vae=vae)
    images = [f"{name} decoder", 0]
    if source.shown != source.size:
        graph[f"{name} scale"] = _scale(images, source.shown, "nearest-exact", "disabled")
        images = [f"{name} scale", 0]
    graph[name] = _node("SaveImage", images=images, filename_prefix=name)
