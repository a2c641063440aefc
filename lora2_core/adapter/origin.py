"""What an adapter knows of where it comes from: its training, its base model, and its file.

A fact that nobody gave is empty or None. A new fact is a new field here; `Origin.from_info` then
reads it under the field's own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

from .model_names import ModelNames

# a sentence for the user, or a list of a sentence with {0}, {1}, ... and what stands there
Note = str | list


def plain(note: Note) -> str:
    """Returns a note as a plain sentence."""
    return note if isinstance(note, str) else note[0].format(*note[1:])


@dataclass(frozen=True)
class Learned:
    """What a training of LoRA² learned of each layer beside its update, by the layer's name.

    ranks: the rank at the end of the training, before any cut. Empty for other LoRAs.
    nu: how fast importance falls along the rank positions of a layer; empty for fixed ranks.
    sensitivity: how much the loss depends on a layer's energy, in 0 to 1 when trained. A layer
    without an entry counts as 1.
    """

    ranks: Mapping[str, int] = field(default_factory=dict)
    nu: Mapping[str, float] = field(default_factory=dict)
    sensitivity: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """What is known of the training run.

    settings: every option by name, as JSON values.
    history: `loss` and `mean_rank`, one number a step, and the series of held_out.py; a file has at
    most 200 numbers of each.
    pictures: the names of those whose losses the history has; no file holds them.
    previews: [step, number, file below the output folder, label] of each; no file holds them.
    steps, images: how many there were.
    resolution: WIDTHxHEIGHT of the first picture.
    started, finished: Unix time in seconds.
    """

    settings: Mapping = field(default_factory=dict)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pictures: Sequence[str] = ()
    previews: Sequence[Sequence] = ()
    steps: int | None = None
    images: int | None = None
    resolution: str | None = None
    started: int | None = None
    finished: int | None = None


@dataclass(frozen=True)
class BaseModel:
    """What is known of the model that the adapter belongs to.

    version, name, v2, architecture, implementation, prediction: for the entries of sd-scripts and
    modelspec that end in these words.
    diffusers: module path -> diffusers' path of the same module, for UNets.
    part: the word that PEFT names of the denoiser's layers begin with.
    names: all names of the model's layers in files, where the model was seen.
    """

    version: str | None = None
    name: str | None = None
    v2: bool | None = None
    architecture: str | None = None
    implementation: str | None = None
    prediction: str | None = None
    diffusers: Mapping[str, str] = field(default_factory=dict)
    part: str = "unet"
    names: ModelNames | None = None


@dataclass(frozen=True)
class SourceFile:
    """The file that an adapter was loaded from.

    name: as the list of LoRAs shows it; None where the adapter is not from that list.
    metadata: all entries of the file's header.
    bases: layer -> the layer's name in the file, in files of LoRA².
    keys: layer -> the key of its lora_up in the file, or of another of its tensors.
    notes: sentences for the user on the file, such as what another program did to it.
    changes: the entries of the metadata that another program changed, added or removed.
    left_out: the parts of the metadata of LoRA² that can't be used, each with the reason.
    """

    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[Note] = field(default_factory=list)
    changes: Sequence[str] = field(default_factory=list)
    left_out: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """Everything that an adapter knows beside its layers."""

    learned: Learned = Learned()
    run: RunFacts = RunFacts()
    base: BaseModel = BaseModel()
    file: SourceFile = SourceFile()

    @classmethod
    def from_info(cls, info: Mapping) -> Origin:
        """Returns the origin that a flat mapping describes, as `lora2_core.save` takes it.

        Its keys are the fields of RunFacts; `base`, a mapping of fields of BaseModel, and beside it
        `diffusers`, `part` and `names`; and `metadata`, entries that a file carries on. Other keys
        are ignored.
        """
        paths = {key: info[key] for key in ("diffusers", "part", "names") if key in info}
        return cls(
            run=_of_known(RunFacts, info),
            base=_of_known(BaseModel, dict(info.get("base", {})) | paths),
            file=SourceFile(metadata=info.get("metadata", {})),
        )


Part = TypeVar("Part", RunFacts, BaseModel)


def _of_known(kind: type[Part], values: Mapping) -> Part:
    """Returns a part made of the values that are fields of it."""
    known = {f.name for f in fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in known})
