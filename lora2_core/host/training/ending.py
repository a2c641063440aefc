"""Ends a run for its node: keeps the adapter where nothing else would, and says how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...adapter.lora import RankedLora
from ...saying import log
from ..behind import is_taken, running
from ..store import KEPT, RESCUED, save_under_loras
from .hints import FINISHED, UNSAVED
from .live import Origin
from .memory import out_of_memory
from .run import Interrupt, Outcome
from .run_view import RunView

ADAPTER_OUTPUTS = 3  # the first outputs of LoRA2 Train hold the adapter: lora2, lora and model
LESS_MEMORY = (
    "Too little memory: lower batch_size or max_rank, take smaller pictures, or set checkpointing "
    "to on in LoRA2 Memory Options."
)


def adapter_is_taken(origin: Origin, server) -> bool:
    """Returns whether a node that the host executes needs the adapter of a LoRA2 Train node; True
    where the host's PromptServer does not say.
    """
    if not origin.node or (prompt := running(server, origin.prompt)) is None:
        return True
    return is_taken(origin.node, ADAPTER_OUTPUTS, *prompt)


def end(outcome: Outcome, view: RunView, taken: bool) -> dict | None:
    """Ends a run that came to its last step: writes its adapter where no other node takes it, and
    shows it. Returns the last event, None where it could not be made.
    """
    if outcome.resumed_after == len(outcome.losses):
        view.progress.notes.append(FINISHED)
    if not taken:
        view.progress.kept = keep(outcome.lora)
        if view.progress.kept is None:
            view.progress.notes.append(UNSAVED)
    return view.end(outcome)


def keep(lora: RankedLora) -> str | None:
    """Writes an adapter that goes to no other node. Returns its name among the loras, None where it
    could not be written: the outputs still hold it.
    """
    name, fault = written(lora, KEPT)
    if name is None:
        log.error("The adapter could not be saved: %s", fault)
    else:
        log.info("The adapter is saved as %s.", name)
    return name


def written(lora: RankedLora, prefix: str) -> tuple[str | None, str]:
    """Writes an adapter at the end of its run, which a fault must not hide. Returns its name among
    the loras and "", or None and what was wrong.
    """
    try:
        return save_under_loras(lora, prefix)[0], ""
    except (OSError, ValueError, MemoryError) as error:
        return None, str(error) or "too little memory"


def end_early(outcome: Outcome, view: RunView) -> BaseException:
    """Ends a run that something stopped: writes what it has learned, and shows that. Returns the
    exception for the node to raise: the host's interrupt itself, else an error that says what is
    left and how to go on.
    """
    error = outcome.stopped_by
    if not outcome.losses:
        return error
    name, said = rescue(outcome)
    cancelled = isinstance(error, Interrupt)
    view.end_early("cancelled" if cancelled else "failed", name)
    log.warning("LoRA2 Train ended at step %d. %s", len(outcome.losses), said)
    if cancelled:
        return error
    kind = torch.OutOfMemoryError if out_of_memory(error) else RuntimeError
    return kind(f"{error} {said}")


@contextmanager
def kept_whatever_fails(outcome: Outcome, view: RunView) -> Iterator[None]:
    """Writes the adapter of a finished run where something fails inside that the node gives beside
    it: no other node gets the adapter then.
    """
    try:
        yield
    except Exception as error:
        said = "The adapter is saved in the loras folder."
        if view.progress.kept is None:
            said = rescue(outcome)[1]
        raise RuntimeError(f"{error} {said}") from error


def rescue(outcome: Outcome) -> tuple[str | None, str]:
    """Writes the adapter of a run that something stopped. Returns its name among the loras, None
    where it could not be written, and sentences that say so and how to go on.
    """
    name, fault = written(outcome.lora, RESCUED)
    if name is None:
        said = f"The adapter so far could not be saved: {fault}"
    else:
        said = f"The adapter so far is saved as {name}."
    if out_of_memory(outcome.stopped_by):
        said = f"{LESS_MEMORY} {said}"
    if outcome.checkpoint:
        said += (
            f" To go on from there, choose resume {outcome.checkpoint} in LoRA2 Checkpoint "
            "Options (press R for the list)."
        )
    return name, said
