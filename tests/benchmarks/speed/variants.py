"""The trainers that are compared, each as work that a Pace can hold back after every step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import current_thread

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import make_loss
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import EVERYTHING, TargetSettings
from tests.benchmarks.speed.pace import Pace, Work
from tests.host.examples import examples_of

RATE = 1e-5


@dataclass(frozen=True)
class Job:
    """What all variants are given alike."""

    model: ModelPatcher
    latents: list[dict]
    positive: list[list]
    targets: str
    rank: int = 64
    max_rank: int = 256
    batch: int = 1

    @property
    def dtype(self) -> str:
        """As the built-in trainer names it."""
        return "fp32" if self.model.model.get_dtype() == torch.float32 else "bf16"


@contextmanager
def frozen(job: Job) -> Iterator[tuple]:
    """(inner model, loss function) of the bare model, ready for autograd."""
    with on_loan(job.model) as inner, ExitStack() as stack:
        before = comfy.model_management.in_training
        comfy.model_management.in_training = True  # some models compute otherwise then
        stack.callback(setattr, comfy.model_management, "in_training", before)
        items = examples_of(job.model, inner, job.latents, job.positive)
        options = dict(job.model.model_options.get("transformer_options", {}))
        yield inner, make_loss(inner, items, job.batch, options)


def limit(job: Job) -> Work:
    """Forward and backward of the frozen model, with gradients up to the output of every layer that
    would be adapted: what no trainer of these layers can do without.
    """

    def reach(_module, _inputs, output: torch.Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_()

    def work(steps: int, tick: Callable[[], None]) -> int:
        generator = torch.Generator().manual_seed(0)
        with frozen(job) as (inner, loss_fn):
            for name, module in inner.named_modules():
                if re.search(job.targets, name):
                    module.register_forward_hook(reach)
            for _ in range(steps):
                loss = loss_fn(generator)
                loss.backward()
                loss.item()
                tick()
        return 0

    return work


def ours(mode: str, *, everything: bool = False, start: bool = True) -> Callable[[Job], Work]:
    """LoRA² Train between its inputs and its outputs. `start`: every layer starts at the target
    rank, so that all modes are measured at the same ranks; else as the mode itself starts.
    """

    def prepare(job: Job) -> Work:
        def work(steps: int, tick: Callable[[], None]) -> int:
            rank = RankSettings(
                mode=mode,
                target_rank=job.rank,
                start_rank=job.rank if start else None,
                max_rank=job.max_rank,
            )
            run = Choices(
                rank,
                TrainSettings(steps=steps, learning_rate=RATE),
                batch_size=job.batch,
                target=TargetSettings(targets=EVERYTHING if everything else job.targets),
            )
            outcome = train_on(job.model, job.latents, job.positive, run, lambda step: tick())
            if outcome.stopped_by is not None:
                raise outcome.stopped_by
            return outcome.lora.parameters

        return work

    return prepare


class Bar:
    """In place of the node's progress bar, which it moves after every step."""

    def __init__(self, *_):
        pass

    def update(self, _count: int) -> None:
        pace = current_thread()
        if isinstance(pace, Pace):
            pace.tick()


def node_call(job: Job, steps: int, *, bypass: bool = False, checkpointing: bool = True):
    """The host's own Train LoRA node with its defaults, but for rank, dtype and learning rate."""
    import comfy_extras.nodes_train as node

    node.ProgressBar, comfy.utils.PROGRESS_BAR_ENABLED = Bar, False
    chosen = {
        "batch_size": job.batch, "grad_accumulation_steps": 1, "steps": steps,
        "learning_rate": RATE, "rank": job.rank, "optimizer": "AdamW", "loss_function": "MSE",
        "seed": 0, "training_dtype": job.dtype, "lora_dtype": job.dtype,
        "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": checkpointing,
        "checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]",
        "bucket_mode": False, "bypass_mode": bypass,
    }  # fmt: skip
    inputs = {name: [value] for name, value in chosen.items()}
    return node.TrainLoraNode.execute([job.model], job.latents, job.positive, **inputs)


def built_in(**options: bool) -> Callable[[Job], Work]:
    """The built-in trainer; its bar calls tick() itself."""

    def prepare(job: Job) -> Work:
        def work(steps: int, _tick: Callable[[], None]) -> int:
            found = node_call(job, steps, **options)
            return sum(tensor.numel() for tensor in found.args[0].values())

        return work

    return prepare


def peft(job: Job) -> Work:
    """PEFT's LoRA on the same layers with torch's AdamW, in the plainest loop."""

    def work(steps: int, tick: Callable[[], None]) -> int:
        from peft import LoraConfig, get_peft_model

        generator = torch.Generator().manual_seed(0)
        with frozen(job) as (inner, loss_fn):
            targets = f".*({job.targets})"
            config = LoraConfig(r=job.rank, lora_alpha=job.rank, target_modules=targets)
            get_peft_model(inner.diffusion_model, config)
            learning = [p for p in inner.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(learning, lr=RATE)
            for _ in range(steps):
                loss = loss_fn(generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()
                tick()
            return sum(p.numel() for p in learning)

    return work


VARIANTS: dict[str, Callable[[Job], Work]] = {
    "limit": limit,
    "fixed": ours("fixed"),
    "adaptive": ours("adaptive"),
    "adaptive, first steps": ours("adaptive", start=False),
    "paper": ours("paper"),
    "fixed, every layer": ours("fixed", everything=True),
    "built-in": built_in(),
    "built-in, no checkpointing": built_in(checkpointing=False),
    "built-in, bypass": built_in(bypass=True),
    "PEFT": peft,
}
