"""Does one trial of the protocol: trains an adapter, draws pictures with it and scores them. All of
it uses ComfyUI's own modules.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import comfy.model_management
import comfy.sample
import folder_paths
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..charts.score_chart import Scored, score_csv
from ..charts.scores import Encoders, Judge, Score
from ..dataset.folder import scan
from ..dataset.plan import DatasetSettings
from ..dataset.reading import decode
from ..files.saving import save
from ..host.apply import apply_lora
from ..host.data.folder_dataset import make_dataset
from ..host.local_encoders import clip_features, dino_features
from ..host.training.choices import Choices
from ..host.training.run import Outcome, train_on
from .dreambooth import Subject, read_subjects
from .models import load_checkpoint
from .plan import Plan, Trial

# number of steps at the end of a training; the mean of their losses is recorded
LAST = 50


def load_encoders(plan: Plan) -> Encoders:
    """Loads the encoders that score pictures, from the folders that the plan names."""
    clip = clip_features(Path(plan.clip_folder)) if plan.clip_folder else (None, None)
    dino = dino_features(Path(plan.dino_folder)) if plan.dino_folder else None
    return Encoders(dino, *clip)


def real_pictures(folder: Path) -> list[Tensor]:
    """Reads the pictures of a folder in order of name, each as [1, height, width, 3] in [0, 1]."""
    files = [picture.path for picture in scan(folder).pictures]
    arrays = [torch.from_numpy(decode(path.read_bytes()).copy()) for path in files]
    return [rearrange(pixels, "height width rgb -> 1 height width rgb") for pixels in arrays]


def keep(pictures: Tensor, start: Path) -> None:
    """Writes pictures [B, height, width, 3] to START_0.png, START_1.png and so on. `start` is the
    path up to START.
    """
    start.parent.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate((pictures * 255).round().byte().cpu().numpy()):
        Image.fromarray(np.ascontiguousarray(pixels)).save(f"{start}_{number}.png")


class Workshop:
    """Loads a model and encoders once, and executes any number of trials with them."""

    def __init__(self, plan: Plan, data: Path, out: Path):
        self.plan, self.out = plan, out
        self.subjects: dict[str, Subject] = {s.name: s for s in read_subjects(data)}
        folder_paths.set_input_directory(str(data.resolve()))
        self.encoders = load_encoders(plan)
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_checkpoint(plan.checkpoint)

    def execute(self, trial: Trial) -> dict[str, float]:
        """Executes a trial and returns the numbers for its row of the table of trials. Writes the
        pictures, the scores of each prompt and the adapter to the trial's own folder.
        """
        with torch.inference_mode():
            return self._execute(trial)

    def _execute(self, trial: Trial) -> dict[str, float]:
        subject = self.subjects[trial.subject]
        folder, start = self.out / "trials" / trial.key, time.monotonic()
        row, model, clip = {"megabytes": 0.0, "mean_rank": 0.0}, self.model, self.clip
        if (choices := self.plan.choices(trial.method)) is not None:
            outcome = self.train(subject, choices | {"seed": trial.seed})
            folder.mkdir(parents=True, exist_ok=True)
            save(folder / "adapter.safetensors", outcome.lora)
            row = {
                "megabytes": outcome.lora.megabytes(),
                "mean_rank": outcome.lora.mean_rank,
                "loss": statistics.fmean(outcome.losses[-LAST:]),
                "train_seconds": time.monotonic() - start,
            }
            model, clip = apply_lora(model, clip, outcome.lora, 1.0, 1.0)
        judge = Judge(self.encoders, real_pictures(subject.folder))
        drawing, scoring, scores = 0.0, 0.0, []
        for number, prompt in enumerate(subject.prompts(self.plan.token, self.plan.prompts)):
            start = time.monotonic()
            pictures = self.draw(model, clip, prompt, seed=1000 * trial.seed + number)
            drawing += time.monotonic() - start
            keep(pictures, folder / f"{number:02}")
            start = time.monotonic()
            scores.append(Scored(prompt, None, judge.of_prompt([pictures], prompt)))
            scoring += time.monotonic() - start
        (folder / "prompts.csv").write_text(score_csv(scores), encoding="utf-8")
        row |= {"draw_seconds": drawing, "score_seconds": scoring}
        return row | vars(Score.mean([each.score for each in scores]))

    def train(self, subject: Subject, choices: dict) -> Outcome:
        """Trains an adapter on the pictures of a subject. Each picture is cut to the square at its
        centre.
        """
        text = self.plan.caption.format(**{"token": self.plan.token, "class": subject.kind})
        settings = DatasetSettings(text, self.plan.resolution, buckets=False)
        data = make_dataset(subject.name, self.clip, self.vae, settings, lambda done, of: None)
        pictures = data.latents, data.positive
        outcome = train_on(self.model, *pictures, Choices.of(choices), lambda step: None)
        if outcome.stopped_by is not None:
            raise outcome.stopped_by
        return outcome

    def draw(self, model, clip, prompt: str, seed: int) -> Tensor:
        """Draws as many pictures of a prompt as the plan says. Returns them as
        [B, height, width, 3] in [0, 1]. The same seed gives every method the same noise, so only
        the adapter makes a difference.
        """
        how = self.plan.sampling
        form = model.get_model_object("latent_format")
        ratio = getattr(form, "spacial_downscale_ratio", 8)
        shape = (self.plan.images, form.latent_channels, how["height"] // ratio)
        latent = torch.zeros(*shape, how["width"] // ratio)
        latent = comfy.sample.fix_empty_latent_channels(model, latent)
        positive, negative = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "")
        )
        noise = comfy.sample.prepare_noise(latent, seed)
        parts = how["steps"], how["cfg"], how["sampler_name"], how["scheduler"]
        drawn = comfy.sample.sample(
            model, noise, *parts, positive, negative, latent, disable_pbar=True, seed=seed
        )
        pictures = self.vae.decode(drawn)
        pictures = rearrange(pictures, "... height width rgb -> (...) height width rgb")
        return pictures.float().clamp(0, 1).cpu()
