"""Presets: settings by name in files that people share. Those of the pack lie beside this file,
those of users in lora2/presets of the host's output folder, never outside it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import folder_paths

from ...atomic import write_atomic
from ...checks import check_range, check_text
from ...layers.targets import TargetSettings
from ...paths import below, quoted, unportable
from ...ranks.settings import RankSettings
from ...training.loss import LossSettings
from ...training.settings import TrainSettings
from .choices import Choices

VERSION = 1
FAMILIES = Path(__file__).parent / "families"
KIND = ".json"
LARGEST = 65_536  # bytes of a file, far above any real one
LONGEST = 2000  # characters of a text in it
NAME = re.compile(r"\w[\w .()+-]{0,99}")
# set by LoRA2 Train itself, whose values would win
OF_TRAIN = {
    "steps", "learning_rate", "batch_size", "mode", "target_rank", "budget_mb", "max_rank", "seed",
}  # fmt: skip
OTHERS = {
    "checkpointing", "gradient_accumulation_steps", "straight_through", "torch_compile",
    "prior_weight", "preserve_weight", "mask_blur", "mask_floor", "validation_split",
    "validation_every", "return_best", "picture_losses", "text_learning_rate", "text_targets",
}  # fmt: skip
KINDS = RankSettings, TrainSettings, TargetSettings, LossSettings
# what a preset may set: no files, folders, pictures or models
SHARED = (OTHERS | {f.name for kind in KINDS for f in fields(kind)}) - OF_TRAIN


OF_THE_PACK = "models", "versions"  # only its own files say them


@dataclass(frozen=True)
class Preset:
    """Holds settings to share.

    settings: of option nodes, by their names. steps, learning_rate, target_rank: for LoRA2 Train.
    about: what it is for. models: the host's names of models that it is usual for. versions: of a
    model that this also is, and that can't be told from it: distilled to few steps. Raises
    ValueError for a setting that no preset has, and for a wrong value.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    about: str = ""
    steps: int = 500
    learning_rate: float = 1e-4
    target_rank: int = 16
    models: Sequence[str] = ()
    versions: str = ""

    def __post_init__(self) -> None:
        check_text("about", self.about)
        check_text("versions", self.versions)
        if isinstance(self.models, str) or not all(isinstance(m, str) for m in self.models):
            raise ValueError(f"models is {quoted(self.models)}: give a list of names.")
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"settings is {quoted(self.settings)}: give names and values.")
        if unknown := set(self.settings) - SHARED:
            raise ValueError(f"settings has {quoted(min(unknown, key=str))}, which no preset has.")
        for name, value in (*self.settings.items(), ("about", self.about)):
            plain = value is None or isinstance(value, (bool, int, float, str))
            if not plain or (isinstance(value, str) and len(value) > LONGEST):
                raise ValueError(f"{name} is {quoted(value)}: give a number or a short text.")
        check_range("target_rank", self.target_rank, 1, 4096, integer=True)
        own = {"steps": self.steps, "learning_rate": self.learning_rate}
        Choices.of({**self.settings, **own})  # checks every value

    @classmethod
    def of(cls, options: Mapping[str, object], **own: object) -> tuple[Preset, list[str]]:
        """Returns the preset of a chain of option nodes, and the names of what it leaves out."""
        kept = {name: value for name, value in options.items() if name in SHARED}
        return cls(kept, **own), sorted(options.keys() - SHARED - OF_TRAIN)

    @classmethod
    def parsed(cls, data: bytes) -> Preset:
        """Returns the preset of a file's bytes. Raises ValueError for anything else."""
        try:
            values = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is no JSON ({type(error).__name__}).") from error
        if not isinstance(values, dict) or values.get("lora2_preset") != VERSION:
            raise ValueError(
                f'it is no preset that this LoRA2 reads: "lora2_preset" must be {VERSION}.'
            )
        del values["lora2_preset"]
        if unknown := values.keys() - {f.name for f in fields(cls)}:
            raise ValueError(f"it has {quoted(min(unknown))}, which no preset has.")
        return cls(**values)

    def encoded(self) -> bytes:
        """Returns the bytes of its file."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own = {name: value for name, value in own.items() if value or name not in OF_THE_PACK}
        own["settings"] = dict(sorted(self.settings.items()))
        text = json.dumps({"lora2_preset": VERSION} | own, indent=1, ensure_ascii=False)
        return text.encode() + b"\n"


def presets_folder() -> Path:
    """Returns the folder of the users' presets."""
    return Path(folder_paths.get_output_directory()) / "lora2" / "presets"


def preset_list() -> list[str]:
    """Returns the presets of the pack by name, then those of users with the ending of their
    files.
    """
    folder, own = presets_folder(), []
    if folder.is_dir():
        own = [path.name for path in folder.iterdir() if path.suffix == KIND and path.is_file()]
    return sorted(path.stem for path in FAMILIES.glob(f"*{KIND}")) + sorted(
        name for name in own if NAME.fullmatch(name)
    )


def preset_file(name: object) -> Path:
    """Returns the file of a name in the list. Raises ValueError where there is none."""
    path = None
    if isinstance(name, str) and NAME.fullmatch(name):
        folder, file = (presets_folder(), name) if name.endswith(KIND) else (FAMILIES, name + KIND)
        path = below(folder, file)
    if path is None or not os.path.isfile(path):
        raise ValueError(
            f"There is no preset {quoted(name)}: choose one from the list (press R to refresh it); "
            "files go to output/lora2/presets."
        )
    return path


def read_preset(name: str) -> Preset:
    """Returns the preset of a name in the list. Raises ValueError where it can't be used."""
    path = preset_file(name)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes.")
        return Preset.parsed(path.read_bytes())
    except OSError as error:
        raise ValueError(f"The preset {quoted(name)} can't be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"The preset {quoted(name)} can't be used: {error}") from error


def new_file(name: object) -> Path:
    """Returns the file that a new preset of this name gets. Raises ValueError for what is no
    name.
    """
    plain = isinstance(name, str) and NAME.fullmatch(name) and unportable(name) is None
    path = below(presets_folder(), f"{name.removesuffix(KIND)}{KIND}") if plain else None
    if path is None:
        raise ValueError(
            f"name is {quoted(name)}: give one of letters, digits, spaces and any of _.()+- such "
            "as my portraits."
        )
    return path


def write_preset(preset: Preset, name: str) -> str:
    """Writes a preset, and returns its name in the list. A preset that is there already stays:
    ValueError where it is another one.
    """
    path, data = new_file(name), preset.encoded()
    try:
        if path.exists():
            if path.read_bytes() != data:
                raise ValueError(f"There is another preset {quoted(path.name)}: give a new name.")
        else:
            write_atomic(path, data)
    except OSError as error:
        raise ValueError(
            f"The preset {quoted(path.name)} can't be written ({error.strerror})."
        ) from error
    return path.name
