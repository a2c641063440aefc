"""Draws previews: pictures of the host's own sampler with the adapter so far. Training does not
notice: no bit of its result depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.samplers
import folder_paths
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...checks import check_choice, check_range, check_text
from ...saying import log
from ...training.run import Run, Step
from ..data.encoding import CAPTION
from ..only_said import OnlySaid
from ..output import numbered_files
from . import one_step
from .loan import Loan
from .text_encoder import TextEncoder

LARGEST = 16384  # pixels of a side, as the host's own nodes have it
OBSERVED = "previews"  # in Run.observed: [step, number, file below the output folder, label]
LONGEST_LABEL = 200  # characters of a prompt
LONGEST_REASON = 300  # characters of an error in the log, so that ours is read to its end


@dataclass(frozen=True)
class Preview:
    """Holds what a picture is drawn from, again and again, always from the same noise.

    positive, negative: CONDITIONING; None for a negative of zeros. vae: the VAE that decodes.
    preview_every: steps from one to the next; the first is drawn before the first step.
    width, height: in pixels; 0 for those of the first picture that is trained on.
    filename_prefix: below the output folder.
    prompt: what positive encodes, as text: a text encoder that is trained encodes it anew each
        time. Empty where positive says it itself, or none is trained.
    strength: of the adapter, as LoRA2 Apply has it.
    """

    positive: list = field(compare=False, repr=False)
    vae: object = field(compare=False, repr=False)
    negative: list | None = field(default=None, compare=False, repr=False)
    preview_every: int = 100
    seed: int = 0
    steps: int = 20
    cfg: float = 5.0
    sampler_name: str = "euler"
    scheduler: str = "simple"
    width: int = 0
    height: int = 0
    filename_prefix: str = "lora2/previews/preview"
    prompt: str = ""
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_range("every", self.preview_every, 1, 1_000_000, integer=True)
        check_range("seed", self.seed, 0, 2**64 - 1, integer=True)
        check_range("steps", self.steps, 1, 10_000, integer=True)
        check_range("cfg", self.cfg, 0, 100)
        check_range("width", self.width, 0, LARGEST, integer=True)
        check_range("height", self.height, 0, LARGEST, integer=True)
        check_choice("sampler_name", self.sampler_name, tuple(comfy.samplers.SAMPLER_NAMES))
        check_choice("scheduler", self.scheduler, tuple(comfy.samplers.SCHEDULER_NAMES))
        numbered_files(self.filename_prefix)
        check_text("prompt", self.prompt)
        check_range("strength", self.strength, -10, 10)

    @property
    def caption(self) -> str:
        """Returns what it shows as text, as far as that is known."""
        return self.prompt or str(self.positive[0][1].get(CAPTION, ""))

    def check(self, captions: list[list]) -> None:
        """Raises ValueError where it doesn't fit the captions that are trained on."""
        if not self.positive:
            raise ValueError("positive of the preview is empty: connect a CLIP Text Encode.")
        own = captions[0][0].shape[-1]
        for name, conditioning in (("positive", self.positive), ("negative", self.negative)):
            for entry in conditioning or []:
                if entry[0].shape[-1] != own:
                    raise ValueError(
                        f"{name} of the preview is {entry[0].shape[-1]} wide, but the captions are "
                        f"{own}: encode both with the CLIP that belongs to the model."
                    )


@dataclass(frozen=True)
class Drawn:
    """Says what was drawn: after which step, its file in the output folder, and how many seconds it
    took.
    """

    step: int
    filename: str
    subfolder: str
    seconds: float


class Previews:
    """Draws a run's previews when they are due, and calls `on_preview` with each. After one that
    failed it draws no more: a run of hours does not end for a picture.
    """

    def __init__(
        self,
        previews: tuple[Preview, ...],
        loan: Loan,
        run: Run,
        latent: Tensor,
        on_preview: Callable[[Drawn], None],
        text_encoder: TextEncoder | None = None,
    ):
        self.loan, self.run, self.on_preview = loan, run, on_preview
        self.text_encoder = text_encoder
        form = loan.inner.latent_format
        self.previews = [(p, empty_latent(p, latent, form)) for p in previews]
        self.files: dict[int, tuple[Path, str]] = {}  # folder and start of the name
        self.say = OnlySaid()

    def before_the_first_step(self) -> None:
        """Draws all previews with the model as it is."""
        self.draw_due(0)

    def after(self, step: Step) -> None:
        """Draws what is due after a step."""
        self.draw_due(step.index)

    def draw_due(self, step: int) -> None:
        """Draws the previews whose step this is, and those of the last step."""
        last = step == self.run.settings.steps
        due = [i for i, (p, _) in enumerate(self.previews) if last or not step % p.preview_every]
        if not due:
            return
        failure, drawn = None, []
        with self.loan.paused() as patcher, at_its_best(self.run), same_random(patcher.load_device):
            try:
                drawn = [self.draw(patcher, number, step) for number in due]
            except Exception as error:  # whatever a sampler, a VAE or a disk may raise
                failure = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
            finally:
                for number in due:  # training needs the memory of their VAEs
                    vae = self.previews[number][0].vae
                    comfy.model_management.unload_model_and_clones(vae.patcher)
        for each in drawn:
            self.say(self.on_preview, each)
        if failure is not None:
            self.previews = []
            log.warning(
                "The preview of step %d failed, and there will be no more in this run: %s",
                step, failure,
            )  # fmt: skip

    def draw(self, patcher, number: int, step: int) -> Drawn:
        """Draws, decodes and writes one picture."""
        began = time.monotonic()
        preview, latent = self.previews[number]
        if self.text_encoder is not None:
            preview = encoded_again(preview, self.text_encoder)
        with at_strength(self.run, preview.strength):
            drawn = sample(patcher, preview, latent)
        picture = decode(preview.vae, drawn)
        if number not in self.files:
            self.files[number] = numbered_files(preview.filename_prefix)
        folder, start = self.files[number]
        path = folder / f"{start}step-{step:06}.png"
        picture.save(path, compress_level=4)
        subfolder = folder.relative_to(folder_paths.get_output_directory()).as_posix()
        known = self.run.observed.setdefault(OBSERVED, {"drawn": []})["drawn"]
        known.append([step, number, f"{subfolder}/{path.name}", label_of(preview)])
        return Drawn(step, path.name, subfolder, time.monotonic() - began)


def label_of(preview: Preview) -> str:
    """Returns a line that tells a preview from the others of its run."""
    strength = f", strength {preview.strength:g}" if preview.strength != 1 else ""
    return f"{preview.caption[:LONGEST_LABEL]} (seed {preview.seed}{strength})".strip()


def encoded_again(preview: Preview, text_encoder: TextEncoder) -> Preview:
    """Returns the preview with its prompt encoded by the text encoder as it is now."""
    prompt = preview.caption
    if not prompt:
        log.warning(
            "The preview leaves out what the text encoder has learned: write its prompt in LoRA2 "
            "Preview Options too."
        )
        return preview
    (cross, facts), *_ = text_encoder.conditioning(prompt)
    return replace(preview, positive=[[cross, preview.positive[0][1] | facts]])


def empty_latent(preview: Preview, latent: Tensor, form) -> Tensor:
    """Returns zeros [1, channels, ...] of the preview's size, or of the size of a latent that is
    trained on.
    """
    ratio = getattr(form, "spacial_downscale_ratio", 8)
    sides = zip((preview.height, preview.width), latent.shape[-2:], strict=True)
    height, width = (side // ratio if side else own for side, own in sides)
    frames = latent.shape[2:-2] and (1,)
    return torch.zeros(1, latent.shape[1], *frames, max(1, height), max(1, width))


def sample(patcher, preview: Preview, latent: Tensor) -> Tensor:
    """Returns what the host's KSampler makes of the empty latent, or of the source in positive."""
    if one_step.takes_one_step(patcher.get_model_object("model_sampling")):
        return one_step.sample(patcher, preview.positive)
    noise = comfy.sample.prepare_noise(latent, preview.seed)
    negative = preview.negative or zeroed(preview.positive)
    parts = preview.steps, preview.cfg, preview.sampler_name, preview.scheduler
    conditions = preview.positive, negative, latent
    return comfy.sample.sample(
        patcher, noise, *parts, *conditions, disable_pbar=True, seed=preview.seed
    )


def zeroed(conditioning: list) -> list:
    """Returns what the host's Conditioning Zero Out makes of a CONDITIONING."""
    entries = []
    for cross, facts in conditioning:
        zero = {k: torch.zeros_like(v) for k, v in facts.items() if k == "pooled_output"}
        entries.append([torch.zeros_like(cross), facts | zero])
    return entries


def decode(vae, latent: Tensor) -> Image.Image:
    """Returns the first picture of a latent (of a video, the first frame)."""
    picture = vae.decode(latent)
    picture = rearrange(picture, "... h w rgb -> (...) h w rgb")[0]
    return Image.fromarray((picture.float().clamp(0, 1) * 255).round().byte().cpu().numpy())


@contextmanager
def at_its_best(run: Run) -> Iterator[None]:
    """Makes the adapter inside what it would be if the run ended now: all its ranks are used, and
    its weights are their running means where there are any. Afterwards its weights are as before,
    to the bit.
    """
    with torch.inference_mode(False), torch.no_grad():
        run.adapters.refresh()
        before = run.optimizer.take_means()
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)


@contextmanager
def at_strength(run: Run, strength: float) -> Iterator[None]:
    """Multiplies the adapter's update by a strength inside."""
    if strength == 1:
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        run.adapters.refresh(lambda weights: torch.full_like(weights, strength))
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            run.adapters.refresh()


@contextmanager
def same_random(device: torch.device) -> Iterator[None]:
    """Lets the global generators go on afterwards as if nothing had been drawn inside."""
    kind = device.type if device.type in ("cuda", "xpu") else None
    with torch.random.fork_rng([device] if kind else [], device_type=kind or "cuda"):
        yield
