"""Does a job: trains an adapter for each folder of pictures, one after another, draws with it on
the way, and saves it. A second start goes on where the first one ended.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ..atomic import write_atomic
from ..checks import check_range
from ..dataset.plan import DatasetSettings
from ..files.saving import save
from ..host.data.folder_dataset import make_dataset
from ..host.training.checkpoint_files import folder_of
from ..host.training.checkpoint_keeping import LATEST
from ..host.training.choices import Choices
from ..host.training.epochs import MOST_EPOCHS, MOST_STEPS, choices_with_epochs
from ..host.training.live import Origin
from ..host.training.previews import Preview
from ..host.training.run import Outcome
from ..host.training.run_view import RunView
from ..saying import log
from .job import Job, Subject, with_name
from .models import load_models

LAST = 50  # steps, whose mean loss is recorded
SAVE = {"format": "form", "dtype": "dtype", "max_mb": "max_mb"}  # inputs of LoRA2 Save -> of save
ENCODED = ("positive", "vae", "negative", "prompt", "filename_prefix")  # of a preview, made here


class Trainer:
    """A model, loaded once, and the trainings of a job on it; out: the folder of the adapters."""

    def __init__(self, job: Job, out: Path):
        self.job, self.out = job, out
        check(job)
        folder_paths.set_output_directory(str(out))
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_models(job)

    @torch.inference_mode()
    def train(self, subject: Subject, fingerprint: str) -> dict[str, Any]:
        """Trains an adapter on a folder, writes it, and returns what is known of it. The pictures
        that are drawn lie in a folder beside it.
        """
        job, began = self.job, time.monotonic()
        folder_paths.set_input_directory(str(subject.folder.parent))
        settings = DatasetSettings(**with_name(job.dataset, subject.name))
        data = make_dataset(
            subject.folder.name, self.clip, self.vae, settings, lambda done, of: None
        )
        kept = f"{subject.name}-{fingerprint}"
        options = job.train | {"previews": self.previews(subject)}
        options |= {"checkpoint_every": job.checkpoint_every, "keep_last": 1}
        options |= {"checkpoint_name": kept, "resume": LATEST}
        options |= {"clip": self.clip} if job.text_encoder else {}
        outcome = self.outcome(choices_with_epochs(options, job.epochs, data.latents), data)
        lora = outcome.lora
        save(
            self.out / f"{subject.name}.safetensors",
            lora,
            diffusers=lora.origin.base.diffusers,
            **{SAVE[name]: value for name, value in job.save.items()},
        )
        shutil.rmtree(folder_of(kept), ignore_errors=True)
        return {
            "fingerprint": fingerprint,
            "steps": len(outcome.losses),
            "loss": statistics.fmean(outcome.losses[-LAST:]),
            "mean_rank": lora.mean_rank,
            "megabytes": lora.megabytes(),
            "seconds": time.monotonic() - began,
        }

    def outcome(self, choices: Choices, data) -> Outcome:
        """Trains to the end and returns what came of it. Raises what stopped it earlier."""
        view = RunView(Origin(), choices, lambda kind, event: None)
        pictures = self.model, data.latents, data.positive
        view.begin(*pictures, True)
        for note in view.progress.notes:
            log.info("%s", note)
        outcome = view.train(*pictures)
        if outcome.stopped_by is not None:
            raise outcome.stopped_by
        return outcome

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


def work_off(job: Job, subjects: list[Subject], out: Path) -> dict[str, dict[str, Any]]:
    """Does what is missing of a job, and returns what is known of each adapter by its name. Raises
    RuntimeError at the end where some failed; all others are done by then.
    """
    done, failed, trainer = {}, [], None
    out.mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        mark = job.fingerprint(subject)
        facts = finished(out, subject, mark)
        if facts is None:
            trainer = trainer or Trainer(job, out)
            log.info("%s: adapter %d of %d", subject.name, len(done) + 1, len(subjects))
            try:
                facts = trainer.train(subject, mark)
            except Exception as error:  # one subject of many; the others are still to do
                log.error("%s failed: %s", subject.name, " ".join(str(error).split())[-500:])
                failed.append(subject.name)
                continue
            write_atomic(out / f"{subject.name}.json", json.dumps(facts, indent=1).encode())
        done[subject.name] = facts
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(subjects)} trainings failed, the first is {failed[0]} (see "
            "above). The others are done; start again to try them once more."
        )
    return done
