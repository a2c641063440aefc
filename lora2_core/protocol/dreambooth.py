"""A folder in the layout of the DreamBooth data set: a folder of pictures for every subject, and
prompts_and_classes.txt with its class and the prompts.

The text is read by its letter: lines `name,class`, and quoted prompts with {0} for the token that
names the subject and {1} for its class. Prompts of the part called "Live Subject" are for cats and
dogs; without that part all subjects share the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LIST = "prompts_and_classes.txt"
LIVE = {"cat", "dog"}
CLASS = re.compile(r"([\w. -]+),([\w. -]+)")
PROMPT = re.compile(r"""^\s*(['"])(?P<text>.*)\1\s*\.format\(""")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Subject:
    """A folder of pictures, the class word, and prompts with {0} for the token, {1} for the
    class.
    """

    name: str
    kind: str
    folder: Path
    templates: tuple[str, ...]

    def prompts(self, token: str, count: int) -> list[str]:
        """Returns the first `count` prompts."""
        return [t.replace("{0}", token).replace("{1}", self.kind) for t in self.templates[:count]]


def read_list(text: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Returns (class by subject, prompts, prompts of live subjects) of prompts_and_classes.txt."""
    classes: dict[str, str] = {}
    prompts: dict[bool, list[str]] = {False: [], True: []}
    live = in_prompts = False
    for line in text.splitlines():
        heading = line.strip().lower()
        if heading.endswith("prompts"):
            in_prompts, live = True, heading.startswith("live")
        elif in_prompts:
            if found := PROMPT.match(line):
                prompts[live].append(found["text"])
        elif (found := CLASS.fullmatch(line.strip())) and found[1] != "subject_name":
            classes[found[1]] = found[2].strip()
    return classes, prompts[False], prompts[True]


def read_subjects(folder: Path, only: list[str] | None = None) -> list[Subject]:
    """Returns the subjects that have pictures, by name; ValueError where the folder is not in that
    form.
    """
    if not (folder / LIST).is_file():
        raise ValueError(f"There is no {LIST} in {folder}: give a folder in DreamBooth's layout.")
    classes, prompts, live = read_list((folder / LIST).read_text(encoding="utf-8"))
    if not prompts:
        raise ValueError(f"{folder / LIST} has no prompts, that is lines '...'.format(...).")
    there = {path.name for path in folder.iterdir() if path.is_dir() and has_pictures(path)}
    wanted = sorted(there & classes.keys()) if only is None else only
    for name in wanted:
        if name not in there:
            raise ValueError(f"There is no folder {name!r} with pictures in {folder}.")
        if name not in classes:
            raise ValueError(f"{folder / LIST} has no line '{name},class'.")
    if not wanted:
        raise ValueError(f"No folder in {folder} has pictures and a line in {LIST}.")

    def subject(name: str) -> Subject:
        own = live if live and classes[name] in LIVE else prompts
        return Subject(name, classes[name], folder / name, tuple(own))

    return [subject(name) for name in wanted]


def has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURES for path in folder.iterdir())
