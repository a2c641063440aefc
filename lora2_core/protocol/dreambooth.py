"""Folders in the layout of the DreamBooth data set: a folder of pictures for every subject, and
prompts_and_classes.txt with the classes and the prompts.

That file has lines `name,class`, and quoted prompts with {0} for the token that names the subject
and {1} for its class. Prompts in the part called "Live Subject" are for cats and dogs; without that
part all subjects share the other prompts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LIST = "prompts_and_classes.txt"
# classes of live subjects
LIVE = {"cat", "dog"}
CLASS = re.compile(r"([\w. -]+),([\w. -]+)")
PROMPT = re.compile(r"""^\s*(['"])(?P<text>.*)\1\s*\.format\(""")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Subject:
    """A subject: its folder of pictures, the word for its class (kind), and prompts with {0} for
    the token and {1} for the class.
    """

    name: str
    kind: str
    folder: Path
    templates: tuple[str, ...]

    def prompts(self, token: str, count: int) -> list[str]:
        """Returns the first `count` prompts, with token and class filled in."""
        return [t.replace("{0}", token).replace("{1}", self.kind) for t in self.templates[:count]]


def read_list(text: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Returns the text of prompts_and_classes.txt as (classes by subject, prompts, prompts of live
    subjects).
    """
    classes: dict[str, str] = {}
    prompts: dict[bool, list[str]] = {False: [], True: []}
    live = in_prompts = False
    for line in text.splitlines():
        heading = line.strip().lower()
        if heading.endswith("prompts"):
            in_prompts, live = True, heading.startswith("live")
        elif in_prompts:
            if prompt := PROMPT.match(line):
                prompts[live].append(prompt["text"])
        elif (pair := CLASS.fullmatch(line.strip())) and pair[1] != "subject_name":
            classes[pair[1]] = pair[2].strip()
    return classes, prompts[False], prompts[True]


def read_subjects(folder: Path, only: list[str] | None = None) -> list[Subject]:
    """Returns the subjects of a folder that have pictures, in order of name, or those of `only`.
    Raises ValueError where the folder is not in that layout, or lacks one of `only`.
    """
    if not (folder / LIST).is_file():
        raise ValueError(f"There is no {LIST} in {folder}: give a folder in DreamBooth's layout.")
    classes, prompts, live = read_list((folder / LIST).read_text(encoding="utf-8"))
    if not prompts:
        raise ValueError(f"{folder / LIST} has no prompts, that is lines '...'.format(...).")
    present = {path.name for path in folder.iterdir() if path.is_dir() and has_pictures(path)}
    wanted = sorted(present & classes.keys()) if only is None else only
    for name in wanted:
        if name not in present:
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
    """Returns whether a file in a folder has the ending of a picture."""
    return any(path.suffix.lower() in PICTURES for path in folder.iterdir())
