"""A job: trainings in one file, to be done one after another without a browser."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checks import check_range, check_text
from ..fingerprint import fingerprint
from ..paths import quoted, unportable
from .json_file import read_fields
from .plan import PRESETS, contents

NAME = "{name}"  # in captions and prompts: the name of the subject
TEXTS = ("checkpoint", "diffusion_model", "clip_type", "vae")
LISTS = ("folders", "names", "text_encoders", "prompts")
TABLES = ("dataset", "train", "sample", "save")
# what a finished training does not depend on
LATER = ("folders", "names", "prompts", "sample", "save", "checkpoint_every")


@dataclass(frozen=True)
class Subject:
    """Names a folder of pictures, and its adapter."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Job:
    """Holds what is trained, and how.

    folders: of pictures, one for each adapter; from the file's own folder on. names: of the
        adapters; those of the folders without.
    checkpoint: a name in the checkpoints folder, a file, or "playground"; or instead
        diffusion_model, text_encoders with clip_type (as CLIPLoader has it), and vae, by names in
        their folders or files.
    dataset: inputs of LoRA² Dataset. train: inputs of LoRA² Train and settings of its option nodes.
    epochs: of LoRA² Train. text_encoder: whether it is trained too.
    prompts: of pictures on the way and at the end; sample: how they are drawn, as LoRA² Preview
        Options has it.
    save: format, dtype and max_mb of LoRA² Save.
    checkpoint_every: steps from one checkpoint to the next, from which a second start goes on.
    """

    folders: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    checkpoint: str = ""
    diffusion_model: str = ""
    text_encoders: tuple[str, ...] = ()
    clip_type: str = ""
    vae: str = ""
    dataset: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    epochs: int = 0
    text_encoder: bool = False
    prompts: tuple[str, ...] = ()
    sample: dict = field(default_factory=dict)
    save: dict = field(default_factory=dict)
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in TEXTS:
            check_text(name, getattr(self, name))
        for name in LISTS:
            if any(not isinstance(text, str) or not text.strip() for text in getattr(self, name)):
                raise ValueError(f"{name} is {quoted(list(getattr(self, name)))}: give texts.")
        for name in TABLES:
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is {quoted(getattr(self, name))}: give names and values.")
        if not isinstance(self.text_encoder, bool):
            raise ValueError(f"text_encoder is {quoted(self.text_encoder)}: give true or false.")
        check_range("checkpoint_every", self.checkpoint_every, 1, 1_000_000, integer=True)
        parts = self.diffusion_model, *self.text_encoders, self.vae
        if bool(self.checkpoint) == bool("".join(parts)):
            raise ValueError("The job needs checkpoint, or diffusion_model, text_encoders and vae.")
        if not self.checkpoint and not all((self.diffusion_model, self.text_encoders, self.vae)):
            raise ValueError("diffusion_model, text_encoders and vae belong together: give all.")
        if not self.folders:
            raise ValueError("The job has no folders: give at least one folder of pictures.")
        if self.names and len(self.names) != len(self.folders):
            raise ValueError(
                f"There are {len(self.folders)} folders but {len(self.names)} names: give one for "
                "each, or none."
            )

    @classmethod
    def read(cls, source: str) -> Job:
        """Returns the job of a JSON or TOML file. Raises ValueError for unknown fields."""
        values: dict[str, Any] = read_fields(cls, "job", source, PRESETS / "jobs")
        for name in LISTS:
            given = values.get(name, [])
            if not isinstance(given, list):
                raise ValueError(f"{name} is {quoted(given)}: give a list.")
            values[name] = tuple(given)
        return cls(**values)

    def subjects(self, start: Path) -> list[Subject]:
        """Returns the folders with their names. Raises ValueError where a folder is missing, or a
        name can't be that of a file.
        """
        found: dict[str, Subject] = {}
        for index, given in enumerate(self.folders):
            folder = (start / given).resolve()
            name = self.names[index] if self.names else folder.name
            if not folder.is_dir():
                raise ValueError(f"There is no folder {quoted(given)} at {start}.")
            if (fault := unportable(name)) or "/" in name or "\\" in name:
                why = fault or "it has folders"
                raise ValueError(f"The name {quoted(name)} can't be that of a file: {why}.")
            if name.casefold() in found:
                raise ValueError(f"Two adapters would be called {quoted(name)}: give names.")
            found[name.casefold()] = Subject(name, folder)
        return list(found.values())

    def fingerprint(self, subject: Subject) -> str:
        """Returns a hash of everything that a subject's adapter depends on."""
        facts = {k: v for k, v in asdict(self).items() if k not in LATER}
        facts["checkpoint"] = contents(self.checkpoint)
        return fingerprint(subject.name, contents(str(subject.folder)), facts)


def with_name(values: Any, name: str) -> Any:
    """Returns texts, also in dicts and lists, with the name of the subject in place of NAME."""
    if isinstance(values, str):
        return values.replace(NAME, name)
    if isinstance(values, dict):
        return {key: with_name(value, name) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(with_name(value, name) for value in values)
    return values
