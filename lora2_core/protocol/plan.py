"""What is evaluated and how: a JSON file, and the trials that it comes to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..checks import check_range
from .dreambooth import Subject
from .json_file import read_fields

PRESETS = Path(__file__).parent / "presets"
PLAYGROUND = "playground"
SAMPLING = {
    "steps": 30, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "width": 1024,
    "height": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything that scores depend on beside the pictures.

    checkpoint: a name in the checkpoints folder, a file, or "playground".
    methods: by name, the choices of LoRA² Train and its option nodes; None for no adapter.
    training: choices that all methods have in common.
    prompts, images: how many prompts of a subject, and pictures of each prompt.
    caption: of training pictures without a caption beside them; {token} and {class}.
    clip_folder, dino_folder: encoders in transformers' form; "" for none.
    """

    checkpoint: str = PLAYGROUND
    methods: dict[str, dict | None] = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    prompts: int = 10
    images: int = 5
    resolution: int = 1024
    token: str = "sks"
    caption: str = "a photo of {token} {class}"
    clip_folder: str = ""
    dino_folder: str = ""

    def __post_init__(self) -> None:
        check_range("prompts", self.prompts, 1, 1000, integer=True)
        check_range("images", self.images, 1, 1000, integer=True)
        check_range("resolution", self.resolution, 16, 8192, integer=True)
        for seed in self.seeds:
            check_range("seeds", seed, 0, 2**63 - 1, integer=True)
        if not self.methods or not self.seeds:
            raise ValueError("The plan has no methods or no seeds: give at least one of each.")
        if unknown := self.sampling.keys() - SAMPLING.keys():
            raise ValueError(f"sampling has {min(unknown)!r}: it may have {', '.join(SAMPLING)}.")
        for name, method in self.methods.items():
            if method is not None and not isinstance(method, dict):
                raise ValueError(f"Method {name!r} is {method!r}: give settings, or null for none.")
        object.__setattr__(self, "sampling", SAMPLING | self.sampling)

    @classmethod
    def read(cls, source: str, **changes) -> Plan:
        """Of a JSON file or a preset's name, with fields changed; ValueError for unknown ones."""
        told = read_fields(cls, "plan", source, PRESETS)
        told = told | {k: v for k, v in changes.items() if v is not None}
        return cls(**told | {"seeds": tuple(told.get("seeds", (0,)))})

    def choices(self, method: str) -> dict | None:
        """Returns what a method trains with, None for no adapter."""
        own = self.methods[method]
        return None if own is None else self.training | own

    def shortened(self, steps: int) -> Plan:
        """With at most so many training steps in every method, to try things."""
        cut = {
            name: own and own | {"steps": min(steps, self.choices(name).get("steps", steps))}
            for name, own in self.methods.items()
        }
        return replace(self, methods=cut)


@dataclass(frozen=True)
class Trial:
    """One training of one method on one subject, drawn with and scored."""

    subject: str
    method: str
    seed: int
    fingerprint: str  # of everything that its scores depend on

    @property
    def key(self) -> str:
        """Returns also a folder's name."""
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.method)
        return f"{self.subject}/{plain}-{self.seed}-{self.fingerprint}"


def trials(plan: Plan, subjects: Sequence[Subject]) -> list[Trial]:
    """Returns all of them; methods change fastest, so that every part of a sweep compares all
    methods.
    """
    places = ("checkpoint", "clip_folder", "dino_folder")
    shared = asdict(plan) | {"methods": None, "training": None, "seeds": None}
    shared |= {place: contents(shared[place]) for place in places}
    pictures = {subject.name: contents(str(subject.folder)) for subject in subjects}
    found = []
    for seed in plan.seeds:
        for subject in subjects:
            own = [subject.kind, subject.templates, pictures[subject.name]]
            for method in plan.methods:
                told = [shared, plan.choices(method), *own]
                mark = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
                found.append(Trial(subject.name, method, seed, mark))
    return found


def contents(place: str) -> str | list[tuple[str, int]]:
    """Returns what is at a path, wherever that is on this machine: (name, bytes) of a folder's
    files or of a file; the text itself where there is none.
    """
    path = Path(place)
    if not place or not path.exists():
        return place
    files = path.iterdir() if path.is_dir() else [path]
    return sorted((file.name, file.stat().st_size) for file in files if file.is_file())
