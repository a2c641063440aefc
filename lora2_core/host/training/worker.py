"""Trains several adapters, one after another: what the queue in the graph and the one without a
browser have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...files.saving import save
from ...saying import log
from ..data.folder_dataset import Dataset
from .checkpoint_files import folder_of
from .checkpoint_keeping import LATEST
from .choices import Choices
from .epochs import choices_with_epochs
from .run import Interrupt, Outcome

T = TypeVar("T")
R = TypeVar("R")
LONGEST_REASON = 500  # characters of an error in the log, its last ones


@dataclass(frozen=True)
class Worker:
    """Trains on pictures to the end, from the newest checkpoint on where there is one.

    options: of LoRA2 Train and its option nodes. epochs: of LoRA2 Train. every: steps from one
    checkpoint to the next. train: trains, and returns what came of it.
    """

    options: Mapping[str, object]
    epochs: int
    every: int
    train: Callable[[Choices, Dataset], Outcome]

    def finish(self, path: Path, kept: str, data: Dataset, **how: object) -> Outcome:
        """Trains, writes the adapter, and removes its checkpoints. Raises what stopped it before
        its last step; it then goes on from its checkpoint the next time.

        kept: the folder of its checkpoints. how: arguments of `save`.
        """
        keep = {"checkpoint_every": self.every, "checkpoint_name": kept, "resume": LATEST}
        options = {**self.options, "keep_last": 1, **keep}
        outcome = self.train(choices_with_epochs(options, self.epochs, data.latents), data)
        if outcome.stopped_by is not None:
            raise outcome.stopped_by
        save(path, outcome.lora, diffusers=outcome.lora.origin.base.diffusers, **how)
        forget(folder_of(kept))
        return outcome


def one_by_one(wanted: Iterable[T], do: Callable[[T], R]) -> Iterator[tuple[T, R | Exception]]:
    """Yields each wanted with what came of it; where it failed, its exception. The host's interrupt
    ends all.
    """
    for each in wanted:
        try:
            yield each, do(each)
        except Interrupt:  # in old hosts an Exception
            raise
        except Exception as error:  # one of many; the others are still to do
            yield each, error


def gathered(results: Iterable[tuple[str, R | Exception]]) -> dict[str, R]:
    """Returns the results by name. Raises RuntimeError at the end where some failed; all others
    are done by then.
    """
    done: dict[str, R] = {}
    failed: dict[str, Exception] = {}
    for name, result in results:
        if isinstance(result, Exception):
            log.error("%s failed: %s", name, " ".join(str(result).split())[-LONGEST_REASON:])
            failed[name] = result
        else:
            done[name] = result
    if failed:
        first = next(iter(failed))
        reason = " ".join(str(failed[first]).split())[-LONGEST_REASON:]
        raise RuntimeError(
            f"{len(failed)} of {len(done) + len(failed)} trainings failed, the first is {first} "
            f"({reason}). The others are kept: run again to try them once more."
        )
    return done


def forget(folder: Path) -> None:
    """Removes the checkpoints of a finished run."""
    for path in folder.glob("step-*.safetensors"):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
