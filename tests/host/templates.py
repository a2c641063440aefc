"""The example workflows of flow models, made from the host's own definitions of their nodes:
`python -m tests.hosting.inprocess tests.host.templates` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.host.captioning import NAME as CAPTIONED
from tests.host.captioning import captioning
from tests.host.template_graph import NARROW, WIDE, Graph, definitions, text_of

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows"
COLUMNS = (20, 430, 850, 1370)  # left edges of the four groups
GROUPS = (
    ("1  Model and pictures", "#3f789e"), ("2  Which layers, what is kept", "#8AA"),
    ("3  Train", "#8A8"), ("4  What came out", "#b58b2a"),
)  # fmt: skip


@dataclass(frozen=True)
class Template:
    """One workflow: files as (name, place below HUB), the type of Load CLIP, how it is trained.
    cut: MB to which a LoRA is cut that the training goes on from, 0 for none.
    """

    model: tuple[str, str]
    clip: tuple[str, str]
    vae: tuple[str, str]
    kind: str
    folder: str
    about: str
    rank: int = 16
    steps: int = 2000
    resolution: int = 1024
    loss: dict = field(default_factory=dict)
    cut: float = 0.0


QWEN3 = (
    "qwen_3_4b.safetensors", "z_image_turbo/resolve/main/split_files/text_encoders",
)  # fmt: skip
QWEN_VAE = ("qwen_image_vae.safetensors", "Qwen-Image_ComfyUI/resolve/main/split_files/vae")
TEMPLATES = {
    "LoRA2 Z-Image subject": Template(
        ("z_image_bf16.safetensors", "z_image/resolve/main/split_files/diffusion_models"), QWEN3,
        ("ae.safetensors", "z_image_turbo/resolve/main/split_files/vae"), "lumina2", "my_subject",
        "## Your subject in Z-Image\n\nTrain the base model; the LoRA works on **Z-Image Turbo** "
        "too. To train Turbo itself, put **Load LoRA** with a training adapter between Load "
        "Diffusion Model and LoRA\u00b2 Train, and use the result without it.",
    ),
    "LoRA2 Z-Image compress and train on": Template(
        ("z_image_bf16.safetensors", "z_image/resolve/main/split_files/diffusion_models"), QWEN3,
        ("ae.safetensors", "z_image_turbo/resolve/main/split_files/vae"), "lumina2", "my_subject",
        "## A large LoRA becomes a small one\n\n**LoRA\u00b2 Compress** cuts any LoRA of this "
        "model to *budget_mb*; a short training with the same pictures gives back most of what a "
        "hard cut takes. *target_rank* is the ceiling: set it to about the mean rank that Compress "
        "shows. For another model change the loaders.",
        rank=4, steps=300, cut=20.0,
    ),
    "LoRA2 Flux 2 Klein subject": Template(
        (
            "flux-2-klein-base-4b.safetensors",
            "flux2-klein-4B/resolve/main/split_files/diffusion_models",
        ),
        ("qwen_3_4b.safetensors", "flux2-klein-4B/resolve/main/split_files/text_encoders"),
        ("flux2-vae.safetensors", "flux2-dev/resolve/main/split_files/vae"), "flux2", "my_subject",
        "## Your subject in Flux.2 Klein\n\nTrain the **base** model; the LoRA works on the "
        "distilled Klein too. **Edit pairs:** put *owl_source.png* beside *owl.png*, and write "
        "the instruction as its caption: LoRA\u00b2 Dataset gives the source to the model.",
    ),
    "LoRA2 Qwen-Image-Edit pairs": Template(
        (
            "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
            "Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models",
        ),
        (
            "qwen_2.5_vl_7b_fp8_scaled.safetensors",
            "Qwen-Image_ComfyUI/resolve/main/split_files/text_encoders",
        ),
        QWEN_VAE, "qwen_image", "my_pairs",
        "## An edit for Qwen-Image-Edit\n\n*input/my_pairs* holds **pairs**: *owl_source.png* is "
        "what the model gets, *owl.png* what is to come out, *owl.txt* the instruction. All other "
        "sources are found by their names (or in a second folder, *source_folder*). With "
        "*references* at *auto* the text encoder sees the sources too, as Text Encode Qwen Image "
        "Edit Plus has it.",
    ),
    "LoRA2 Wan 2 high noise": Template(
        (
            "wan2.2_t2v_high_noise_14B_fp16.safetensors",
            "Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/diffusion_models",
        ),
        (
            "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
            "Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders",
        ),
        (
            "wan_2.1_vae.safetensors",
            "Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/vae",
        ),
        "wan", "my_subject",
        "## Your subject in Wan 2.2\n\nWan 2.2 is **two models**, and each gets a LoRA of its own. "
        "This one is for high noise: *min_timestep* 0.47 in LoRA\u00b2 Loss Options is its part "
        "(a noise level above 0.875). For low noise take the other file, *min_timestep* 0 and "
        "*max_timestep* 0.47. Pictures teach a subject; for motion connect videos as LATENTs.",
        resolution=512, loss={"min_timestep": 0.47},
    ),
    "LoRA2 Krea 2 style": Template(
        ("krea2_raw_bf16.safetensors", "Krea-2/resolve/main/diffusion_models"),
        ("qwen3vl_4b_fp8_scaled.safetensors", "Krea-2/resolve/main/text_encoders"),
        ("qwen_image_vae.safetensors", "Krea-2/resolve/main/vae"), "krea2", "my_style",
        "## A style in Krea 2\n\nTrain **Raw**; the LoRA works on Turbo too. The captions say what "
        "is in the picture and leave the style out.",
    ),
}  # fmt: skip
TAIL = (
    "\n\n**Before you start:** the three files of the loaders, and your pictures in *input/{}*, "
    "each with a *.txt* caption of the same name.\n\n**Run** (Ctrl+Enter). LoRA\u00b2 Train says "
    "which timesteps are drawn, and what is usual for the model. *target_rank* is a ceiling.\n\n"
    "Training is tested on small copies of this model, not on its real weights yet.\n"
)


NAMES = (*TEMPLATES, CAPTIONED)


def workflow(name: str, kinds: dict) -> dict:
    """Returns a workflow as the front end saves it."""
    if name == CAPTIONED:
        return captioning(TEMPLATES["LoRA2 Krea 2 style"], kinds)
    template, graph = TEMPLATES[name], Graph(kinds)
    first, second, third, fourth = COLUMNS
    graph.note(template.about + TAIL.format(template.folder))
    model = graph.add(
        "UNETLoader", (first, 0), (NARROW, 82),
        {"unet_name": template.model[0], "weight_dtype": "default"},
        [(template.model, "diffusion_models")],
    )  # fmt: skip
    clip = graph.add(
        "CLIPLoader", (first, 180), (NARROW, 106),
        {"clip_name": template.clip[0], "type": template.kind, "device": "default"},
        [(template.clip, "text_encoders")],
    )  # fmt: skip
    vae = graph.add(
        "VAELoader", (first, 390), (NARROW, 58), {"vae_name": template.vae[0]},
        [(template.vae, "vae")],
    )  # fmt: skip
    data = graph.add(
        "LoRA2Dataset", (first, 550), (NARROW, 500),
        {"clip": (clip, 0), "vae": (vae, 0), "folder": template.folder, "caption": "",
         "resolution": template.resolution},
    )  # fmt: skip
    if template.cut:
        small = graph.add(
            "LoRA2Compress", (second, 0), (NARROW, 330),
            {"budget_mb": template.cut, "tolerance": 0.0, "lora_name": None},
        )  # fmt: skip
        options = graph.add(
            "LoRA2StartOptions", (second, 430), (NARROW, 190),
            {"lora2": (small, 0), "lora_name": None},
        )  # fmt: skip
    else:
        options = graph.add(
            "LoRA2TargetOptions", (second, 0), (NARROW, 330),
            {"layers": "attention + feed-forward"},
        )  # fmt: skip
        options = graph.add(
            "LoRA2LossOptions", (second, 430), (NARROW, 230),
            {"options": (options, 0), **template.loss},
        )  # fmt: skip
    options = graph.add(
        "LoRA2CheckpointOptions", (second, 760), (NARROW, 200),
        {"options": (options, 0), "every": template.steps // 4, "name": template.folder},
    )  # fmt: skip
    train = graph.add(
        "LoRA2Train", (third, 0), (WIDE, 1060),
        {"model": (model, 0), "latents": (data, 0), "positive": (data, 1), "options": (options, 0),
         "steps": template.steps, "target_rank": template.rank, "max_rank": 64},
    )  # fmt: skip
    prefix = "lora2/" + name.removeprefix("LoRA2 ").lower().replace(" ", "_").replace("-", "_")
    graph.add(
        "LoRA2Save", (fourth, 0), (WIDE, 200), {"lora2": (train, 0), "filename_prefix": prefix}
    )
    # below all others, since it grows with the layers that are trained
    graph.add("LoRA2RankHeatmap", (fourth, 320), (WIDE, 640), {"lora2": (train, 0)})
    widths = (NARROW, NARROW, WIDE, WIDE)
    return graph.workflow(
        [(*group, x, wide) for group, x, wide in zip(GROUPS, COLUMNS, widths, strict=True)]
    )


def main(arguments: list[str]) -> None:
    kinds = definitions()
    for name in arguments or NAMES:
        path = WORKFLOWS / f"{name}.json"
        path.write_text(text_of(workflow(name, kinds)), encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
