"""What an adapter file says of itself: kohya's ss_ keys, modelspec, and LoRA²'s own lora2.* as
JSON.

All values are strings; none is a path of the user's machine. FORMAT: sd-scripts' metadata and
modelspec 1.0.1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from ..adapter.lora import RankedLora

VERSION = "2"  # 1: without a seal
HISTORY_POINTS = 200
LONGEST_CARRIED = 65536
OPTIMIZER_NAMES = {
    "adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor", "prodigy": "Prodigy",
    "adamw8bit": "AdamW8bit",
}  # fmt: skip
_PATH = re.compile(r"(?<![\w/:.])(?:/|~/|[A-Za-z]:[\\/]|\\\\)[^\s\"',]+[\\/]")


def thin(values: Sequence[float], points: int = HISTORY_POINTS) -> list[float]:
    """Returns at most `points` values of a series, evenly spaced, ends kept, rounded to six digits;
    NaN becomes 0.
    """
    if len(values) > points:
        values = [values[round(i * (len(values) - 1) / (points - 1))] for i in range(points)]
    return [float(f"{v:.6g}") if math.isfinite(v) else 0.0 for v in values]


def lora2_entries(lora: RankedLora, bases: Mapping[str, str]) -> dict[str, str]:
    """Returns lora2.*: version, settings, history, and a row for every layer trained, rank 0
    included.

    A row is [name in the file, layer, out, fan_in, kernel or 0, learned rank, rate or 0,
    sensitivity], the last one missing in the first files.
    """
    learned, rates = lora.info.get("learned_ranks", {}), lora.info.get("rates", {})
    sensitivity = lora.info.get("sensitivity", {})
    rows = [
        [
            bases[name], name, layer.up.shape[0], layer.down.shape[1],
            list(layer.kernel or ()) or 0,
            learned.get(name, layer.rank), float(f"{rates.get(name, 0):.6g}"),
            float(f"{sensitivity.get(name, 1):.6g}"),
        ]
        for name, layer in lora.layers.items()
    ]  # fmt: skip
    history = {k: thin(v) for k, v in lora.info.get("history", {}).items()}
    entries = {
        "version": VERSION,
        "basis": lora.info.get("basis", "any"),
        "layers": rows,
        "history": history,
    }
    entries |= {"settings": lora.info.get("settings", {})}
    return {
        f"lora2.{k}": v if isinstance(v, str) else json.dumps(v, separators=(",", ":"))
        for k, v in entries.items()
    }


def run_entries(lora: RankedLora, title: str) -> dict[str, str]:
    """Returns ss_* and modelspec.* as far as the run and its host know them."""
    info, now = lora.info, datetime.now(timezone.utc)
    settings, base = info.get("settings", {}), info.get("base", {})
    weighting, huber = settings.get("weighting"), settings.get("huber")
    text_rate = settings.get("text_learning_rate")
    entries = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic",
        "ss_network_alpha": "Dynamic",
        "ss_network_args": json.dumps({"lora2": VERSION}),
        "ss_output_name": title,
        "ss_v2": base.get("v2"),
        "ss_base_model_version": base.get("version"),
        "ss_sd_model_name": base.get("name"),
        "ss_learning_rate": settings.get("learning_rate"),
        "ss_unet_lr": settings.get("learning_rate") if text_rate is not None else None,
        "ss_text_encoder_lr": text_rate,
        "ss_steps": info.get("steps"),
        "ss_max_train_steps": settings.get("steps"),
        "ss_optimizer": optimizer_entry(settings),
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
        "ss_resolution": info.get("resolution"),
        "ss_num_train_images": info.get("images"),
        "ss_num_reg_images": settings.get("prior_images"),
        "ss_prior_loss_weight": settings.get("prior_weight"),
        "ss_training_started_at": info.get("started"),
        "ss_training_finished_at": info.get("finished"),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{base['architecture']}/lora"
        if base.get("architecture")
        else None,
        "modelspec.implementation": base.get("implementation"),
        "modelspec.title": title,
        "modelspec.resolution": info.get("resolution"),
        "modelspec.prediction_type": base.get("prediction"),
        "modelspec.date": now.isoformat(timespec="seconds"),
    }
    defaults = {
        "ss_v2": "False",
        "modelspec.description": "LoRA with learned per-layer ranks (LoRA\u00b2).",
    }
    known = {k: str(v) for k, v in entries.items() if v is not None}
    return defaults | carried(info.get("metadata", {})) | known


def optimizer_entry(settings: Mapping) -> str | None:
    """Returns the optimizer's name with its arguments, as far as the settings know them."""
    name = settings.get("optimizer")
    betas = settings.get("beta1"), settings.get("beta2")
    if not isinstance(name, str) or None in betas:
        return name
    arguments = [f"weight_decay_a_run={settings.get('weight_decay')}"]
    arguments += {"sgd": [f"momentum={betas[0]}"], "adafactor": []}.get(name, [f"betas={betas}"])
    return f"{OPTIMIZER_NAMES.get(name, name)}({','.join(arguments)})"


def carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns what a loaded file says of its training, author and base model that stays true of a
    copy at another size: no ranks, no hashes; no long values and no paths of somebody's machine.
    """
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(("ss_", "modelspec."))
        and not key.startswith(("ss_network_", "modelspec.hash_"))
        and len(value) <= LONGEST_CARRIED
        and not _PATH.search(value)
    }
