"""The plan of an evaluation: a JSON file, and the trials that it leads to."""

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
# how pictures are drawn, where the plan does not say it
SAMPLING = {
    "steps": 30, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "width": 1024,
    "height": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything beside the pictures that scores depend on.

    checkpoint: a name in the checkpoints folder, a file, or "playground".
    methods: by name, the inputs of LoRA² Train and its option nodes; None for no adapter.
    training: inputs that all methods have in common.
    prompts, images: number of prompts of a subject, and of pictures of each prompt.
    caption: for training pictures without a caption file, with {token} and {class}.
    clip_folder, dino_folder: encoders in the form of transformers; "" for none.
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
        """Reads the plan of a JSON file or a preset; `changes` that are not None replace its
        fields. Raises ValueError for unknown fields.
        """
        values = read_fields(cls, "plan", source, PRESETS)
        values = values | {k: v for k, v in changes.items() if v is not None}
        return cls(**values | {"seeds": tuple(values.get("seeds", (0,)))})

    def choices(self, method: str) -> dict | None:
        """Returns the training choices of a method; None for no adapter."""
        own = self.methods[method]
        return None if own is None else self.training | own

    def shortened(self, steps: int) -> Plan:
        """Returns the plan with at most this many training steps in every method, for a quick
        try.
        """
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
    # a hash of everything that its scores depend on
    fingerprint: str

    @property
    def key(self) -> str:
        """Returns a unique name of the trial, which is the path of its folder too."""
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.method)
        return f"{self.subject}/{plain}-{self.seed}-{self.fingerprint}"


def trials(plan: Plan, subjects: Sequence[Subject]) -> list[Trial]:
    """Returns all trials of a plan. Methods change fastest, so that an unfinished sweep compares
    all methods.
    """
    paths = ("checkpoint", "clip_folder", "dino_folder")
    shared = asdict(plan) | {"methods": None, "training": None, "seeds": None}
    shared |= {name: contents(shared[name]) for name in paths}
    pictures = {subject.name: contents(str(subject.folder)) for subject in subjects}
    made = []
    for seed in plan.seeds:
        for subject in subjects:
            own = [subject.kind, subject.templates, pictures[subject.name]]
            for method in plan.methods:
                facts = [shared, plan.choices(method), *own]
                mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
                made.append(Trial(subject.name, method, seed, mark))
    return made


def contents(text: str) -> str | list[tuple[str, int]]:
    """Returns (name, bytes) of the file, or of the files in the folder, that a text is the path of;
    the text itself if nothing is there. So a fingerprint does not depend on where files lie.
    """
    path = Path(text)
    if not text or not path.exists():
        return text
    files = path.iterdir() if path.is_dir() else [path]
    return sorted((file.name, file.stat().st_size) for file in files if file.is_file())
