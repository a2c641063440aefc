"""The metadata that other programs read too: the ss_ entries of sd-scripts and modelspec 1.0.1.

All values are strings. None holds a path of the user's machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone

from ..adapter.lora import RankedLora
from .own_metadata import VERSION

LONGEST_CARRIED = 65536  # characters of an entry: tags stay, embedded pictures go
OPTIMIZER_NAMES = {  # ours -> the class that sd-scripts would name
    "adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor", "prodigy": "Prodigy",
    "adamw8bit": "AdamW8bit",
}  # fmt: skip
# an absolute path of any system, but not the path of a URL
_PATH = re.compile(r"(?<![\w/:.])(?:/|~/|[A-Za-z]:[\\/]|\\\\)[^\s\"',]+[\\/]")


def run_entries(lora: RankedLora, title: str) -> dict[str, str]:
    """Returns the ss_* and modelspec.* entries of an adapter's file, as far as they are known, over
    those that are carried on from the file that it was loaded from.
    """
    run, base, now = lora.origin.run, lora.origin.base, datetime.now(timezone.utc)
    settings = run.settings
    weighting, huber = settings.get("weighting"), settings.get("huber")
    text_rate = settings.get("text_learning_rate")
    entries = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic",
        "ss_network_alpha": "Dynamic",
        "ss_network_args": json.dumps({"lora2": VERSION} | network_arguments(settings)),
        "ss_output_name": title,
        "ss_v2": base.v2,
        "ss_base_model_version": base.version,
        "ss_sd_model_name": base.name,
        "ss_learning_rate": settings.get("learning_rate"),
        "ss_unet_lr": settings.get("learning_rate") if text_rate is not None else None,
        "ss_text_encoder_lr": text_rate,
        "ss_steps": run.steps,
        "ss_max_train_steps": settings.get("steps"),
        "ss_optimizer": optimizer_entry(settings),
        "ss_scale_weight_norms": settings.get("scale_weight_norms"),
        "ss_lr_scheduler": settings.get("schedule"),
        "ss_lr_warmup_steps": settings.get("warmup_steps"),
        "ss_max_grad_norm": settings.get("max_norm"),
        "ss_noise_offset": settings.get("noise_offset") or None,
        "ss_min_snr_gamma": settings.get("gamma") if weighting == "min_snr" else None,
        "ss_debiased_estimation": True if weighting == "debiased" else None,
        "ss_loss_type": None if huber is None else "huber" if huber else "l2",
        "ss_huber_c": huber or None,
        "ss_seed": settings.get("seed"),
        "ss_mixed_precision": settings.get("dtype"),
        "ss_gradient_checkpointing": settings.get("checkpointing"),
        "ss_total_batch_size": settings.get("batch_size"),
        "ss_gradient_accumulation_steps": settings.get("gradient_accumulation_steps"),
        "ss_resolution": run.resolution,
        "ss_num_train_images": run.images,
        "ss_num_reg_images": settings.get("prior_images"),
        "ss_prior_loss_weight": settings.get("prior_weight"),
        "ss_training_started_at": run.started,
        "ss_training_finished_at": run.finished,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{base.architecture}/lora" if base.architecture else None,
        "modelspec.implementation": base.implementation,
        "modelspec.title": title,
        "modelspec.resolution": run.resolution,
        "modelspec.prediction_type": base.prediction,
        "modelspec.date": now.isoformat(timespec="seconds"),
    }
    defaults = {
        "ss_v2": "False",
        "modelspec.description": "LoRA with learned per-layer ranks (LoRA\u00b2).",
    }
    known = {k: str(v) for k, v in entries.items() if v is not None}
    return defaults | carried(lora.origin.file.metadata) | known


def network_arguments(settings: Mapping) -> dict[str, str]:
    """Returns what sd-scripts has as arguments of the network, {} where all of it is off."""
    names = "rank_dropout", "module_dropout", "loraplus_lr_ratio"
    return {name: str(settings[name]) for name in names if settings.get(name)}


def optimizer_entry(settings: Mapping) -> str | None:
    """Returns the optimizer's name with its arguments, as far as the settings have them."""
    name = settings.get("optimizer")
    if isinstance(name, str) and "." in name:
        return f"{name}({settings.get('optimizer_args', '')})"
    betas = settings.get("beta1"), settings.get("beta2")
    if not isinstance(name, str) or None in betas:
        return name
    arguments = [f"weight_decay_a_run={settings.get('weight_decay')}"]
    arguments += {"sgd": [f"momentum={betas[0]}"], "adafactor": []}.get(name, [f"betas={betas}"])
    return f"{OPTIMIZER_NAMES.get(name, name)}({','.join(arguments)})"


def carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns the entries of a loaded file that stay true of a copy at another size: those on its
    training, author and base model, without ranks, hashes, long values and paths of a machine.
    """
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(("ss_", "modelspec."))
        and not key.startswith(("ss_network_", "modelspec.hash_"))
        and len(value) <= LONGEST_CARRIED
        and not _PATH.search(value)
    }
