"""Results by part and model, one JSON file each, written after every measurement."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

import torch

import lora2_core

HERE = Path(__file__).parent
CORE = Path(lora2_core.__file__).parent


def version() -> str:
    """A short name for the sources that were measured."""
    sources = sorted(CORE.glob("*.py")) + sorted(CORE.glob("host/*.py"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:10]


def machine() -> dict:
    """What the figures were taken on."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0].split(":")[1].strip() if lines else processor
    found = {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["gigabytes"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9)
    found |= {"torch": torch.__version__, "python": platform.python_version()}
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return found


class Store:
    """Rows of earlier runs count as long as sources, settings and machine are the same; `reuse`
    takes any.
    """

    def __init__(self, folder: Path, settings: dict, reuse: bool = False):
        self.folder, self.reuse = folder, reuse
        self.mark = {"version": version(), "settings": settings, "machine": machine()}
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, part: str, model: str) -> Path:
        return self.folder / f"{part}-{model}.json"

    def rows(self, part: str, model: str) -> dict[str, dict]:
        """What is still good of a part and model."""
        path = self.path(part, model)
        if not path.exists():
            return {}
        kept = json.loads(path.read_text())
        same = all(kept[key] == value for key, value in self.mark.items())
        return kept["rows"] if same or self.reuse else {}

    def keep(self, part: str, model: str, name: str, row: dict) -> None:
        rows = self.rows(part, model) | {name: row}
        text = json.dumps(self.mark | {"rows": rows}, indent=1) + "\n"
        unfinished = self.path(part, model).with_suffix(".unfinished")
        unfinished.write_text(text)
        unfinished.replace(self.path(part, model))


def load_all(folder: Path) -> dict[str, dict[str, dict]]:
    """Everything stored, as file name without its ending -> {version, settings, machine, rows}."""
    return {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*-*.json"))}
