"""Trains an adapter for each of some folders of pictures, one after another. A second start gives
those that are finished, and goes on with the one that was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...adapter.lora import RankedLora
from ...checks import check_text
from ...dataset.folder import check_folder
from ...dataset.plan import DatasetSettings
from ...dataset.walking import state
from ...files.saving import save
from ...paths import below, quoted, unportable
from ...saying import log
from ..data.encoding import weights_identity
from ..data.folder_dataset import Dataset, make_dataset
from ..lora_files import read_lora
from ..store import check_prefix, loras_folder
from .checkpoint_files import folder_of
from .checkpoint_keeping import LATEST
from .choices import Choices
from .epochs import choices_with_epochs
from .facts import settings_of
from .run import Interrupt, Outcome

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
    options: Mapping[str, object]
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
        done, failed = {}, {}
        for entry in wanted:
            mark = self.fingerprint(entry, choices)
            name = f"{self.prefix}{entry.name}-{mark}.safetensors"
            try:
                if not (path := self.path(name)).is_file():
                    outcome = self.outcome(entry, f"queue-{mark}", on_picture, train)
                    paths = outcome.lora.origin.base.diffusers
                    save(path, outcome.lora, diffusers=paths)
                    log.info("%s: %s, %.2f MB", entry.name, name, outcome.lora.megabytes())
                done[name] = read_lora(name)
            except Interrupt:
                raise
            except Exception as error:  # one folder of many; the others are still to do
                log.error("%s failed: %s", entry.name, " ".join(str(error).split())[-500:])
                failed[entry.name] = error
        if failed:
            first = next(iter(failed))
            raise RuntimeError(
                f"{len(failed)} of {len(wanted)} trainings failed, the first is {first} "
                f"({failed[first]}). The others are kept: run again to try them once more."
            )
        return list(done.values()), list(done)

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
        facts = [
            entry.name, state(folder), self.dataset.facts(), settings_of(choices), self.epochs,
            weights_identity(self.model),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]

    def outcome(
        self,
        entry: Entry,
        kept: str,
        on_picture: Callable[[int, int], None],
        train: Callable[[Choices, Dataset], Outcome],
    ) -> Outcome:
        """Trains on the pictures of a folder. Raises what stopped it before its last step; it then
        goes on from its checkpoint, in the folder `kept`, the next time.
        """
        data = make_dataset(entry.folder, self.clip, self.vae, self.dataset, on_picture)
        every = self.options.get("checkpoint_every") or KEEP_EVERY
        keep = {"checkpoint_every": every, "checkpoint_name": kept, "resume": LATEST}
        options = {**self.options, "keep_last": 1, **keep}
        outcome = train(choices_with_epochs(options, self.epochs, data.latents), data)
        if outcome.stopped_by is not None:
            raise outcome.stopped_by
        forget(folder_of(kept))
        return outcome


def forget(folder: Path) -> None:
    """Removes the checkpoints of a finished run."""
    for path in folder.glob("step-*.safetensors"):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
