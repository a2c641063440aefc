"""The example workflows of flow models, made from the host's own definitions of their nodes:
`python -m tests.hosting.inprocess tests.host.templates` writes them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows"
HUB = "https://huggingface.co/Comfy-Org"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
COLUMNS = (20, 430, 850, 1370)  # left edges of the four groups
GROUPS = (
    ("1  Model and pictures", "#3f789e"), ("2  Which layers, what is kept", "#8AA"),
    ("3  Train", "#8A8"), ("4  What came out", "#b58b2a"),
)  # fmt: skip
WIDE, NARROW, HIGH = 440, 340, 1200


@dataclass(frozen=True)
class Template:
    """One workflow: files as (name, place below HUB), the type of Load CLIP, how it is trained."""

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


def definitions() -> dict:
    """Returns every node that a template may have, by its id."""
    import comfyui_lora2

    import nodes

    extension = asyncio.run(comfyui_lora2.comfy_entrypoint())
    ours = {n.GET_SCHEMA().node_id: n for n in asyncio.run(extension.get_node_list())}
    return dict(nodes.NODE_CLASS_MAPPINGS) | ours


def fields(kind: type) -> list[tuple[str, str, object, bool]]:
    """Returns (name, type, default, optional) of each input of a node, sockets first."""
    types, found = kind.INPUT_TYPES(), []
    for part in ("required", "optional"):
        for name, entry in types.get(part, {}).items():
            options = entry[1] if len(entry) > 1 else {}
            sort = "COMBO" if isinstance(entry[0], (list, tuple)) else entry[0]
            if options.get("forceInput"):
                sort = f"{sort} "
            first = entry[0][0] if isinstance(entry[0], (list, tuple)) and entry[0] else None
            combo = (options.get("options") or [None])[0]
            found.append((name, sort, options.get("default", first or combo), part == "optional"))
    return sorted(found, key=lambda f: f[1] in WIDGETS)


class Graph:
    """Nodes and links of a workflow, in the front end's own form."""

    def __init__(self, kinds: dict):
        self.kinds, self.nodes, self.links = kinds, [], []

    def add(self, kind: str, place: tuple, size: tuple, values: dict, files: list = ()) -> int:
        """Adds a node; values: of its widgets, and (node, slot) of its sockets."""
        number, inputs, widgets = len(self.nodes) + 1, [], []
        for name, sort, default, optional in fields(self.kinds[kind]):
            entry = {"localized_name": name, "name": name, "type": sort.strip(), "link": None}
            if optional:
                entry["shape"] = 7
            if sort in WIDGETS:
                entry["widget"] = {"name": name}
                widgets.append(values.get(name, default))
            elif name in values:
                entry["link"] = self.connect(values[name], number, len(inputs), sort)
            inputs.append(entry)
        outputs = [
            {"localized_name": name, "name": name, "type": sort, "links": []}
            for name, sort in zip(self.names(kind), self.kinds[kind].RETURN_TYPES, strict=True)
        ]
        core = not kind.startswith("LoRA2")
        properties = {
            "Node name for S&R": kind,
            "cnr_id": "comfy-core" if core else "comfyui-lora2",
        }
        if files:
            properties["models"] = [
                {"name": name, "url": f"{HUB}/{where}/{name}", "directory": directory}
                for (name, where), directory in files
            ]
        self.nodes.append({
            "id": number, "type": kind, "pos": list(place), "size": list(size), "flags": {},
            "order": number - 1, "mode": 0, "inputs": inputs, "outputs": outputs,
            "properties": properties, "widgets_values": widgets,
        })  # fmt: skip
        return number

    def names(self, kind: str) -> list[str]:
        made = getattr(self.kinds[kind], "RETURN_NAMES", None)
        return list(made or self.kinds[kind].RETURN_TYPES)

    def connect(self, source: tuple, target: int, slot: int, sort: str) -> int:
        number = len(self.links) + 1
        self.links.append([number, *source, target, slot, sort])
        self.nodes[source[0] - 1]["outputs"][source[1]]["links"].append(number)
        return number

    def note(self, text: str) -> None:
        self.nodes.append({
            "id": 1, "type": "MarkdownNote", "pos": [-440, 0], "size": [400, 640], "flags": {},
            "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": "Read me",
            "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653",
        })  # fmt: skip


def workflow(name: str, kinds: dict) -> dict:
    """Returns a workflow as the front end saves it."""
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
    options = graph.add(
        "LoRA2TargetOptions", (second, 0), (NARROW, 330), {"layers": "attention + feed-forward"}
    )
    options = graph.add(
        "LoRA2LossOptions", (second, 430), (NARROW, 230), {"options": (options, 0), **template.loss}
    )
    options = graph.add(
        "LoRA2CheckpointOptions", (second, 760), (NARROW, 200),
        {"options": (options, 0), "every": 500, "name": template.folder},
    )  # fmt: skip
    train = graph.add(
        "LoRA2Train", (third, 0), (WIDE, 1060),
        {"model": (model, 0), "latents": (data, 0), "positive": (data, 1), "options": (options, 0),
         "steps": template.steps, "target_rank": template.rank, "max_rank": 64},
    )  # fmt: skip
    graph.add("LoRA2RankHeatmap", (fourth, 0), (WIDE, 640), {"lora2": (train, 0)})
    prefix = "lora2/" + name.removeprefix("LoRA2 ").lower().replace(" ", "_").replace("-", "_")
    graph.add(
        "LoRA2Save", (fourth, 760), (WIDE, 200), {"lora2": (train, 0), "filename_prefix": prefix}
    )
    groups = [
        {"id": i, "title": title, "bounding": [x - 20, -80, wide + 40, HIGH], "color": colour,
         "flags": {}}
        for i, ((title, colour), x, wide) in enumerate(
            zip(GROUPS, COLUMNS, (NARROW, NARROW, WIDE, WIDE), strict=True), 1
        )
    ]  # fmt: skip
    return {
        "id": "00000000-0000-0000-0000-000000000000", "revision": 0,
        "last_node_id": len(graph.nodes), "last_link_id": len(graph.links), "nodes": graph.nodes,
        "links": graph.links, "groups": groups, "config": {},
        "extra": {"ds": {"scale": 0.62, "offset": [560, 240]}}, "version": 0.4,
    }  # fmt: skip


def text_of(graph: dict) -> str:
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> None:
    kinds = definitions()
    for name in arguments or TEMPLATES:
        path = WORKFLOWS / f"{name}.json"
        path.write_text(text_of(workflow(name, kinds)), encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
