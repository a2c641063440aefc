"""Trains an adapter for each of some folders of pictures, one after another. A second start gives
those that are finished, and goes on with the one that was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ...adapter.lora import RankedLora
from ...checks import check_text
from ...dataset.folder import check_folder
from ...dataset.plan import DatasetSettings
from ...dataset.walking import state
from ...fingerprint import fingerprint
from ...paths import below, quoted, unportable
from ...saying import log
from ..data.encoding import weights_identity
from ..data.folder_dataset import Dataset, make_dataset
from ..lora_files import read_lora
from ..store import check_prefix, loras_folder
from .choices import Choices
from .facts import settings_of
from .run import Outcome
from .worker import Worker, gathered, one_by_one

MOST = 100  # folders: more are a mistake in the text
KEEP_EVERY = 100  # steps from one checkpoint to the next, where the options have none


@dataclass(frozen=True)
class Entry:
    """Names a folder in the host's input folder, and the name of its adapter."""

    folder: str
    name: str


def entries(text: str) -> list[Entry]:
    """Returns the folders of lines such as `owl` or `pictures/owl = my owl`. Raises ValueError for
    a folder that is not there, and for a name that can't be that of a file.
    """
    found: dict[str, Entry] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        folder, _, name = (part.strip() for part in line.partition("="))
        path = check_folder(folder_paths.get_input_directory(), folder)
        name = name or path.name
        if (fault := unportable(name)) or "/" in name or "\\" in name:
            why = fault or "it has folders"
            raise ValueError(f"The name {quoted(name)} can't be that of a file: {why}.")
        if name.casefold() in found:
            raise ValueError(f"Two adapters would be called {quoted(name)}: write folder = name.")
        found[name.casefold()] = Entry(folder, name)
    if not 0 < len(found) <= MOST:
        raise ValueError(
            f"There are {len(found)} folders: write 1 to {MOST}, a line each, of ComfyUI's input "
            "folder."
        )
    return list(found.values())


def check_queue_prefix(prefix: str) -> None:
    """Raises ValueError where no file could be written whose name begins so."""
    check_text("filename_prefix", prefix)
    check_prefix(f"{prefix}name")


@dataclass(frozen=True)
class Queue:
    """Holds what all trainings have in common.

    options: of LoRA2 Train and its option nodes. prefix: folder and beginning of the files, below
    the loras folder.
    """

    model: object
    clip: object
    vae: object
    dataset: DatasetSettings
    options: Mapping[str, Any]
    epochs: int
    prefix: str

    def work_off(
        self,
        wanted: list[Entry],
        on_picture: Callable[[int, int], None],
        train: Callable[[Choices, Dataset], Outcome],
    ) -> tuple[list[RankedLora], list[str]]:
        """Returns the adapters of all entries and their names among the loras.

        train: trains on pictures to the end, and returns what came of it. Raises RuntimeError at
        the end where some failed; all others are done by then.
        """
        choices = Choices.of(dict(self.options))
        check_queue_prefix(self.prefix)
        every = self.options.get("checkpoint_every") or KEEP_EVERY
        worker = Worker(self.options, self.epochs, every, train)

        def adapter(entry: Entry) -> tuple[RankedLora, str]:
            mark = self.fingerprint(entry, choices)
            name = f"{self.prefix}{entry.name}-{mark}.safetensors"
            if not (path := self.path(name)).is_file():
                encoders = self.clip, self.vae, self.dataset
                data = make_dataset(entry.folder, *encoders, on_picture)
                lora = worker.finish(path, f"queue-{mark}", data).lora
                log.info("%s: %s, %.2f MB", entry.name, name, lora.megabytes())
            return read_lora(name), name

        results = ((entry.name, made) for entry, made in one_by_one(wanted, adapter))
        made = gathered(results).values()
        return [lora for lora, _ in made], [name for _, name in made]

    def path(self, name: str) -> Path:
        """Returns the path of a name among the loras. Raises ValueError where it leads out of
        them.
        """
        path = below(loras_folder(), name)
        if path is None:
            raise ValueError(
                f"filename_prefix {quoted(self.prefix)} leads out of the loras folder."
            )
        return path

    def fingerprint(self, entry: Entry, choices: Choices) -> str:
        """Returns a hash of everything that an adapter depends on."""
        folder = check_folder(folder_paths.get_input_directory(), entry.folder)
        facts = self.dataset.facts(), settings_of(choices), self.epochs
        return fingerprint(entry.name, state(folder), *facts, weights_identity(self.model))
