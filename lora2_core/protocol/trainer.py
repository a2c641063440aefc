"""Does a job: trains an adapter for each folder of pictures, one after another, draws with it on
the way, and saves it. A second start goes on where the first one ended.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import folder_paths
import torch

from ..atomic import write_atomic
from ..checks import check_range
from ..dataset.plan import DatasetSettings
from ..host.data.folder_dataset import make_dataset
from ..host.training.choices import Choices
from ..host.training.epochs import MOST_EPOCHS, MOST_STEPS
from ..host.training.live import Origin
from ..host.training.previews import Preview
from ..host.training.run import Outcome
from ..host.training.run_view import RunView
from ..host.training.worker import Worker, gathered, one_by_one
from ..saying import log
from .job import Job, Subject, with_name
from .models import load_models

LAST = 50  # steps, whose mean loss is recorded
SAVE = {"format": "form", "dtype": "dtype", "max_mb": "max_mb"}  # inputs of LoRA2 Save -> of save
ENCODED = ("positive", "vae", "negative", "prompt", "filename_prefix")  # of a preview, made here

Results: TypeAlias = "Iterator[tuple[Subject, dict[str, Any] | Exception]]"


class Trainer:
    """A model, loaded once, and the trainings of a job on it; out: the folder of the adapters."""

    def __init__(self, job: Job, out: Path):
        self.job, self.out = job, out
        check(job)
        folder_paths.set_output_directory(str(out))
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_models(job)

    @torch.inference_mode()
    def train(self, subject: Subject, mark: str) -> dict[str, Any]:
        """Trains an adapter on a folder, writes it, and returns what is known of it. The pictures
        that are drawn lie in a folder beside it.
        """
        job, began = self.job, time.monotonic()
        folder_paths.set_input_directory(str(subject.folder.parent))
        settings = DatasetSettings(**with_name(job.dataset, subject.name))
        data = make_dataset(
            subject.folder.name, self.clip, self.vae, settings, lambda done, of: None
        )
        options = with_name(job.train, subject.name) | {"previews": self.previews(subject)}
        options |= {"clip": self.clip} if job.text_encoder else {}
        options |= {"preserve_clip": self.clip} if job.train.get("preserve_prompt") else {}
        worker = Worker(options, job.epochs, job.checkpoint_every, self.outcome)
        how = {SAVE[name]: value for name, value in job.save.items()}
        path, kept = self.out / f"{subject.name}.safetensors", f"{subject.name}-{mark}"
        outcome = worker.finish(path, kept, data, **how)
        lora = outcome.lora
        return {
            "fingerprint": mark,
            "steps": len(outcome.losses),
            "loss": statistics.fmean(outcome.losses[-LAST:]),
            "mean_rank": lora.mean_rank,
            "megabytes": lora.megabytes(),
            "seconds": time.monotonic() - began,
        }

    def outcome(self, choices: Choices, data) -> Outcome:
        """Trains, and returns what came of it."""
        view = RunView(Origin(), choices, lambda kind, event: None)
        pictures = self.model, data.latents, data.positive
        view.begin(*pictures, True)
        for note in view.progress.notes:
            log.info("%s", note)
        return view.train(*pictures)

    def previews(self, subject: Subject) -> tuple[Preview, ...]:
        """Returns what draws the job's prompts: before the first step, and after the last one."""
        made = []
        for prompt in with_name(self.job.prompts, subject.name):
            positive, negative = (
                self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
                for text in (prompt, with_name(self.job.sample.get("negative", ""), subject.name))
            )
            how = {k: v for k, v in self.job.sample.items() if k not in ENCODED}
            how["preview_every"] = how.pop("every", 1_000_000)
            prefix = f"{subject.name}/{len(made):02}"
            rest = {"negative": negative, "prompt": prompt, "filename_prefix": prefix}
            made.append(Preview(positive, self.vae, **how, **rest))
        return tuple(made)


def check(job: Job) -> None:
    """Raises ValueError where a setting of a job is unknown or wrong, before a model is loaded."""
    known = {
        "dataset": [f.name for f in fields(DatasetSettings)],
        "sample": [
            "negative",
            "every",
            *(f.name for f in fields(Preview) if f.name not in ENCODED),
        ],
        "save": list(SAVE),
    }
    for table, names in known.items():
        if unknown := getattr(job, table).keys() - set(names):
            raise ValueError(f"{table} has {min(unknown)!r}: it may have {', '.join(names)}.")
    DatasetSettings(**job.dataset)
    check_range("epochs", job.epochs, 0, MOST_EPOCHS, integer=True)
    Choices.of(job.train | ({"steps": MOST_STEPS} if job.epochs else {}))


def finished(out: Path, subject: Subject, fingerprint: str) -> dict[str, Any] | None:
    """Returns what is known of an adapter that is there already, None where it is still to do."""
    try:
        known = json.loads((out / f"{subject.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    there = (out / f"{subject.name}.safetensors").is_file()
    same = isinstance(known, dict) and known.get("fingerprint") == fingerprint
    return known if there and same else None


def here(job: Job, out: Path, missing: Sequence[Subject]) -> Results:
    """Yields the subjects with what came of them, trained one after another in this process."""
    trainer = Trainer(job, out)
    numbers = itertools.count(1)

    def train(subject: Subject) -> dict[str, Any]:
        log.info("%s: adapter %d of %d", subject.name, next(numbers), len(missing))
        return trainer.train(subject, job.fingerprint(subject))

    yield from one_by_one(missing, train)


def work_off(
    job: Job,
    subjects: list[Subject],
    out: Path,
    results: Callable[[Job, Path, Sequence[Subject]], Results] | None = None,
) -> dict[str, dict[str, Any]]:
    """Does what is missing of a job, and returns what is known of each adapter by its name. Raises
    RuntimeError at the end where some failed; all others are done by then.

    results: trains the missing ones; `here` where it is None.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = {s.name: finished(out, s, job.fingerprint(s)) for s in subjects}
    known = {name: facts for name, facts in found.items() if facts is not None}
    missing = [subject for subject in subjects if subject.name not in known]

    def each() -> Iterator[tuple[str, dict[str, Any] | Exception]]:
        yield from known.items()
        for subject, facts in (results or here)(job, out, missing) if missing else ():
            if not isinstance(facts, Exception):
                write_atomic(out / f"{subject.name}.json", json.dumps(facts, indent=1).encode())
            yield subject.name, facts

    made = gathered(each())
    return {subject.name: made[subject.name] for subject in subjects}
