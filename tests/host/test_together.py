"""What the options do, they do together: one run with all of them, stopped and taken up again."""

import folder_paths
import pytest
import torch

from lora2_core import load
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from tests.host.kept import bytes_of, keep, quiet, stop_at

DATASET = {
    "folder": "owl", "resolution": 32, "caption_dropout": 0.25, "shuffle_tags": 2, "flip": True,
}  # fmt: skip
CHAIN = {
    "LoRA2RankOptions": {"tolerance": 0.01, "start_rank": 8},
    "LoRA2TargetOptions": {
        "layers": "attention + feed-forward", "without_blocks": "mid",
        "layer_ranks": "attn1 = 8 target 2",
    },
    "LoRA2MemoryOptions": {"checkpointing": "on"},
    "LoRA2OptimizerOptions": {
        "optimizer": "adam", "schedule": "cosine", "warmup_steps": 2, "max_norm": 1.0, "ema": 0.9,
        "weight_decay": -1.0,
    },
    "LoRA2LossOptions": {
        "weighting": "min_snr", "huber": 0.5, "noise_offset": 0.05, "sampling": "high_noise",
        "min_timestep": 0.1, "max_timestep": 0.9,
    },
}  # fmt: skip
TRAIN = {
    "steps": 12, "batch_size": 2, "learning_rate": 5e-3, "mode": "adaptive", "target_rank": 4,
    "budget_mb": 0.0, "max_rank": 16, "seed": 1,
}  # fmt: skip


def given(node, **values) -> dict:
    """Every field of a node's form: its defaults, and these."""
    inputs = node.define_schema().inputs
    found = {f.id: f.default for f in inputs if getattr(f, "default", None) is not None}
    return found | values


@pytest.fixture
def everything(nodes, playground, folder, monkeypatch, tmp_path) -> tuple:
    """What is trained on, and the chain of all option nodes."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    dataset = nodes["LoRA2Dataset"]
    fields = given(dataset, clip=playground.clip, vae=playground.vae, **DATASET)
    latents, positive, _, masks = dataset.execute(**fields).result
    options = None
    for kind, fields in CHAIN.items():
        (options,) = nodes[kind].execute(**given(nodes[kind], **fields), options=options).result
    prior = {"prior_latents": playground.latents[:2], "prior_positive": playground.positive[:2]}
    numbers = {"prior_weight": [0.5], "mask_blur": [1.0], "mask_floor": [0.2]}
    (options,) = (
        nodes["LoRA2DataOptions"].execute(**numbers, **prior, masks=masks, options=[options]).result
    )
    text = {"learning_rate": [1e-3], "targets": ["self_attn|mlp"], "prior_captions": ["an owl"]}
    (options,) = nodes["LoRA2TextEncoderOptions"].execute(**text, options=[options]).result
    preview = nodes["LoRA2PreviewOptions"]
    fields = given(preview, positive=playground.positive[0], vae=playground.vae, every=6, steps=2)
    (options,) = preview.execute(**fields | {"prompt": "an owl"}, options=options).result
    return (playground.model, latents, positive), options | {"clip": playground.clip}


def test_all_options_at_once(nodes, everything, name, tmp_path):
    data, options = everything
    first = train_on(*data, Choices.of(options | TRAIN | {"steps": 4}), quiet).lora
    (options,) = nodes["LoRA2StartOptions"].execute(lora2=first, options=options).result
    options |= TRAIN | {"adapter_every": 6}
    whole = train_on(*data, Choices.of(options), quiet)
    assert whole.stopped_by is None and torch.tensor(whole.losses).isfinite().all()
    names = list(whole.lora.layers)
    assert any(n.startswith("lora_te_") and "mlp" in n for n in names)
    assert any(".ff.net." in n for n in names) and not any("middle_block" in n for n in names)
    assert max(r for n, r in whole.lora.ranks.items() if "attn1" in n) <= 8
    (path,) = (tmp_path / "loras").rglob("*.safetensors")
    assert load(path).ranks.keys() == whole.lora.ranks.keys()
    assert len(list((tmp_path / "output").rglob("*.png"))) == 2 + 3, "0, 4 and 0, 6, 12"

    part = train_on(*data, Choices.of(options | keep(name)), stop_at(7))
    rest = train_on(*data, Choices.of(options | keep(name, resume=part.checkpoint)), quiet)
    assert rest.resumed_after == 7 and bytes_of(rest) == bytes_of(whole)
