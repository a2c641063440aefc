"""The layers of models in their real sizes, on torch's meta device, beside those that other
trainers take by default: `nox -s models -- --real`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lora2_core.layers.structure import ATTENTION, FEED_FORWARD, FUSED, TRAINED, Place
from lora2_core.layers.targets import places

from .build import config_class

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "use_spatial_transformer": True, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "dim": 5120, "out_dim": 16, "num_heads": 40, "ffn_dim": 13824,
    "num_layers": 40, "freq_dim": 256,
}  # fmt: skip
SHAPES = {
    "SD15": UNET | {
        "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "context_dim": 768,
        "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1, "num_heads": 8, "num_head_channels": -1,
        "use_linear_in_transformer": False, "adm_in_channels": None,
    },
    "SDXL": UNET | {
        "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "context_dim": 2048,
        "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "adm_in_channels": 2816,
        "num_classes": "sequential", "use_linear_in_transformer": True, "num_heads": -1,
        "num_head_channels": 64,
    },
    "Flux": {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
        "mlp_ratio": 4.0, "context_in_dim": 4096, "vec_in_dim": 768, "axes_dim": [16, 56, 56],
        "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    },
    "QwenImage": {"image_model": "qwen_image"},
    "WAN21_T2V": WAN | {"model_type": "t2v"},
    "WAN21_I2V": WAN | {"model_type": "i2v", "in_dim": 36},
    "ZImage": {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840, "n_layers": 30,
        "cap_feat_dim": 2560, "qk_norm": True, "n_heads": 30, "n_kv_heads": 30,
        "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "ffn_dim_multiplier": 8 / 3,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    },
    "Krea2": {"image_model": "krea2"},
}  # fmt: skip


@dataclass(frozen=True)
class Other:
    """What another trainer takes by default: whose rule it is, and the names that it takes."""

    trainer: str
    takes: str


OTHERS = {
    "SD15": Other("sd-scripts", r"\.1\.(proj_|transformer_blocks)"),
    "SDXL": Other("sd-scripts", r"\.1\.(proj_|transformer_blocks)"),
    "Flux": Other("sd-scripts", r"\.(double|single)_blocks\."),
    "QwenImage": Other("musubi-tuner", r"\.transformer_blocks\.(?!\d+\.(img|txt)_mod\.)"),
    "WAN21_T2V": Other("musubi-tuner", r"\.blocks\."),
    "WAN21_I2V": Other("musubi-tuner", r"\.blocks\."),
    "ZImage": Other("musubi-tuner", r"\.layers\.\d+\.(?!adaLN_modulation)"),
}


def real(name: str) -> torch.nn.Module:
    """Returns the host's model of this class in its real size; its weights take no memory."""
    shape = SHAPES[name]
    config = config_class(name)(dict(shape))
    config.unet_config.update(shape)
    config.set_inference_dtype(torch.bfloat16, None)
    with torch.device("meta"):
        return config.get_model({}, "", device="meta")


def names(found: dict[str, Place], wanted: Callable[[str, Place], bool]) -> set[str]:
    return {name for name, place in found.items() if wanted(name, place)}


def counts(name: str) -> dict:
    """Returns how many layers each choice takes, and how ours differs from another trainer's."""
    found = places(real(name))
    attention = names(found, lambda _, p: p.kind in (ATTENTION, FUSED))
    forward = names(found, lambda _, p: p.kind in (ATTENTION, FUSED, FEED_FORWARD))
    blocks = names(found, lambda _, p: p.kind in TRAINED)
    row = {"name": name, "attention": len(attention), "feed-forward": len(forward)}
    row["blocks"] = len(blocks)
    if name in OTHERS:
        other = OTHERS[name]
        theirs = names(found, lambda n, _: re.search(other.takes, n) is not None)
        more = {found[n].kind for n in theirs - forward}
        row |= {
            "trainer": other.trainer, "theirs": len(theirs), "they add": sorted(more),
            "they leave out": len(forward - theirs),
        }  # fmt: skip
    return row


def line(row: dict) -> str:
    """Returns a row of the table."""
    numbers = f"{row['attention']} | {row['feed-forward']} | {row['blocks']}"
    if "trainer" not in row:
        return f"| {row['name']} | {numbers} | | |"
    differences = [f"and {', '.join(row['they add'])}"] if row["they add"] else []
    if row["they leave out"]:
        differences.append(f"without {row['they leave out']}")
    rest = "; ".join(differences) or "the same layers"
    return f"| {row['name']} | {numbers} | {row['trainer']}: {row['theirs']} | {rest} |"


HEAD = (
    "| model | attention | attention + feed-forward | all in blocks | another trainer takes | "
    "beside ours with feed-forward |\n|---|---|---|---|---|---|"
)


def main(arguments: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    print(HEAD)
    for name in arguments or SHAPES:
        print(line(counts(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
