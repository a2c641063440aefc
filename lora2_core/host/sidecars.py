"""Writes what a LoRA file says of itself beside it, as LoRA-Manager reads it: NAME.metadata.json.

Fields that are there stay, whatever they are: only what is missing or empty is filled in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..adapter.lora import RankedLora
from ..adapter.recognised import recognised
from ..atomic import prepare, write_atomic
from ..charts.info import spread, tags
from ..files.trigger_words import trigger_words
from ..paths import quoted
from .lora_files import lora_file

ENDING = ".metadata.json"
LARGEST = 16_000_000  # bytes of one that is read: LoRA-Manager's own have some 100,000
# model -> what LoRA-Manager calls it, after Civitai
BASES = {
    "Stable Diffusion 1.x": "SD 1.5", "Stable Diffusion XL": "SDXL 1.0", "Flux": "Flux.1 D",
    "Qwen-Image": "Qwen", "Stable Diffusion 3": "SD 3.5",
}  # fmt: skip
UNKNOWN = "Unknown"


def write_sidecar(name: str, lora: RankedLora, metadata: Mapping[str, str]) -> str:
    """Writes or completes the sidecar of a file in the loras folder, at once or not at all; returns
    its file's name.

    name: as loaders list the file. ValueError where the sidecar that is there is no JSON object.
    """
    path = Path(lora_file(name))
    sidecar = path.with_name(path.stem + ENDING)
    merged = completed(standing(sidecar), facts_of(path, lora, metadata))
    prepare(sidecar.parent, f"The folder of {quoted(sidecar.name)}", "another file")
    text = json.dumps(merged, indent=2, ensure_ascii=False)
    write_atomic(sidecar, text.encode("utf-8", "replace"))
    return sidecar.name


def standing(sidecar: Path) -> dict:
    """Returns what a sidecar holds, {} where there is none."""
    if not sidecar.is_file():
        return {}
    try:
        if sidecar.stat().st_size > LARGEST:
            raise ValueError("too large")
        found = json.loads(sidecar.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise unreadable(sidecar) from error
    if not isinstance(found, dict):
        raise unreadable(sidecar)
    return found


def unreadable(sidecar: Path) -> ValueError:
    """Returns the error for a sidecar that isn't one."""
    return ValueError(
        f"{quoted(sidecar.name)} is there, but is no JSON object of LoRA-Manager, so nothing was "
        "written: remove or rename it first."
    )


def facts_of(path: Path, lora: RankedLora, metadata: Mapping[str, str]) -> dict:
    """Returns the fields of a new sidecar."""
    state = path.stat()
    title = metadata.get("modelspec.title") or metadata.get("ss_output_name") or path.stem
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256(file.read())
    return {
        "file_name": path.stem,
        "model_name": title,
        "file_path": path.as_posix(),
        "size": state.st_size,
        "modified": state.st_mtime,
        "sha256": digest.hexdigest(),
        "base_model": BASES.get(recognised(lora), UNKNOWN),
        "preview_url": "",
        "preview_nsfw_level": 0,
        "notes": f"{spread(list(lora.ranks.values()))}, {lora.megabytes():.2f} MB in fp16",
        "from_civitai": False,
        "civitai": {"trainedWords": trigger_words(metadata)},
        "tags": tags(metadata),
        "modelDescription": metadata.get("modelspec.description", ""),
        "usage_tips": "{}",
    }


def completed(found: dict, facts: Mapping[str, object]) -> dict:
    """Returns a sidecar with the facts that it lacks. Where the file is another one than before,
    its size and hash are renewed.
    """
    merged = found | {key: value for key, value in facts.items() if is_open(found.get(key))}
    if found.get("sha256") not in (None, "", facts["sha256"]):
        merged |= {key: facts[key] for key in ("size", "modified", "sha256")}
    words, civitai = facts["civitai"], found.get("civitai")
    if isinstance(civitai, dict) and isinstance(words, dict) and not civitai.get("trainedWords"):
        merged["civitai"] = civitai | words
    return merged


def is_open(value: object) -> bool:
    """Returns whether a field says nothing yet. False and 0 are answers."""
    return value in (None, "", UNKNOWN) or value in ([], {})
