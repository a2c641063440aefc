"""Trains and measures one run on the playground."""

from __future__ import annotations

import time
from functools import cache

import torch

from lora2_core import RankedLora
from lora2_core.dataset.captions import without_captions
from lora2_core.host.apply import apply_lora
from lora2_core.host.data.encoding import CAPTION
from lora2_core.host.playground import load_playground
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import collate
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import prediction_error
from lora2_core.host.training.run import train_on
from lora2_core.playground import asset
from lora2_core.training.loss import LossSettings
from tests.benchmarks.held_out import Pictures, encode, held_out_loss
from tests.benchmarks.options.arms import ARMS, FIELDS, Run
from tests.benchmarks.options.papers import PAPERS
from tests.benchmarks.ranks.pictures import Picture, split
from tests.host.examples import examples_of

CLASS = "koala"  # a thing that the playground knows
LEVELS = (0.5, 1.0, 2.0, 5.0)  # of noise
REPEATS = 3  # of each picture; one entry without a caption is then about a twentieth


class Bench:
    """The playground, and pictures as its latents and conditioning."""

    def __init__(self) -> None:
        self.model, self.clip, self.vae = load_playground(asset.load())
        self.pictures = cache(self._pictures)
        self.of_class = cache(lambda subject: self.errors(self.model, subject))

    def _pictures(self, subject: str) -> dict[str, Pictures]:
        """Returns the sets of a subject, and its training pictures with captions of CLASS."""
        sets = split(subject)
        named = {kind: [(p, p.caption) for p in some] for kind, some in sets.items()}
        named["class"] = [(p, p.caption.replace(subject, CLASS)) for p in sets["train"]]
        return {kind: self.encoded(some) for kind, some in named.items()}

    def encoded(self, some: list[tuple[Picture, str]]) -> Pictures:
        """Returns pictures with captions as latents and conditioning, which say the captions."""
        captions = [caption for _, caption in some]
        latents, positive = encode(self.clip, self.vae, [p.image() for p, _ in some], captions)
        for ((_, facts),), caption in zip(positive, captions, strict=True):
            facts[CAPTION] = caption
        return latents, positive

    def train(self, run: Run) -> RankedLora:
        """Returns the adapter of a run."""
        arm = ARMS[run.arm]
        options, data = dict(arm.options), self.pictures(run.subject)["train"]
        if share := options.pop("caption_dropout", 0.0):  # as LoRA2 Dataset has it
            entries = [(p, p.caption) for p in split(run.subject)["train"]] * REPEATS
            data = self.encoded(entries + without_captions(entries, share, run.seed))
        if "preserve_weight" in options:
            options |= {"preserve_prompt": f"{run.subject} = {CLASS}", "preserve_clip": self.clip}
        own = {"mode": arm.mode, "learning_rate": run.rate, "seed": run.seed}
        with PAPERS[arm.paper]():
            choices = Choices.of(FIELDS | own | options)
            return train_on(self.model, *data, choices, lambda step: None).lora

    def errors(self, model, subject: str) -> torch.Tensor:
        """Returns the errors of the predictions for CLASS at fixed noise; differences of them are
        those of the predictions.
        """
        found = []
        with on_loan(model) as inner, torch.no_grad():
            examples = examples_of(model, inner, *self.pictures(subject)["class"])
            latents, conditions = collate(examples)
            generator = torch.Generator().manual_seed(99)
            for level in LEVELS:
                noise = torch.randn(latents.shape, generator=generator)
                rest = torch.full((len(examples),), level), conditions, {}, LossSettings(), None
                found.append(prediction_error(inner, latents, noise, *rest)[0])
        return torch.stack(found)

    def measured(self, run: Run) -> dict[str, float]:
        """Trains, and returns losses on unseen pictures, the mean square by which the predictions
        for CLASS move, MB, and the seconds of the CPU that the training took.
        """
        start = time.process_time()
        lora = self.train(run)
        seconds = time.process_time() - start
        model = apply_lora(self.model, None, lora, 1.0, 1.0)[0]
        pictures = self.pictures(run.subject)
        row = {kind: held_out_loss(model, pictures[kind]) for kind in ("background", "style")}
        moved = self.errors(model, run.subject) - self.of_class(run.subject)
        row["moved"] = float(moved.square().mean())
        return row | {"mb": lora.megabytes(), "seconds": seconds}
