"""Measures one case in a process that sees the null GPU, and prints what it found as JSON.

`python -m tests.null_gpu.work CASE`, with CASE a Case as JSON, in building.environment().
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend

CUDNN = SDPBackend.CUDNN_ATTENTION
MARK = "result: "
WARM, MEASURED = 2, 3  # steps before those that are measured, and those


@dataclass(frozen=True)
class Case:
    """One measurement. model, dtype: of models.py. mode: of the ranks, or `limit`: forward and
    backward pass of the frozen model alone. start: start_rank, 0 for the mode's own.
    moving: rates move in every step. layers: as in LoRA2 Target Options. gigabytes: of the card.
    review: what a review of all ranks and a copy of the adapter cost is measured too.
    ordered: with the allocator of cuda_malloc, the host's default on new cards; copies are checked
    for what they must wait for. broken: the wait that is then left out (card.py). compiled: blocks
    are compiled by torch.compile, on real cards only. preview: the host samples after a step.
    """

    model: str = "sdxl"
    dtype: str = "fp16"
    pixels: int = 512
    mode: str = "fixed"
    rank: int = 64
    start: int = 0
    batch: int = 1
    checkpointing: str = "off"
    moving: bool = False
    layers: str = "attention"
    gigabytes: float = 1000.0
    review: bool = False
    ordered: bool = False
    broken: str = ""
    optimizer: str = "adamw"
    compiled: bool = False
    preview: bool = False
    steps: int = WARM + MEASURED

    @property
    def text(self) -> str:
        """Returns the case as the argument that `main` reads."""
        return json.dumps(asdict(self))


def measure(case: Case) -> dict:
    """Returns what the steps of a case did, peaks in GB above the loaded model, and the error
    where it could not train.
    """
    from tests.null_gpu import card, models

    torch.manual_seed(0)
    card.scripted(moving=case.moving)
    model, data = models.build(case.model, case.dtype), models.pictures(case.model, case.pixels)
    works, row = [], {}
    made = limit(case, model, data) if case.mode == "limit" else steps(case, model, data, row)
    with card.ordered(case.broken) if case.ordered else nullcontext({}) as order, closing(made):
        try:
            for _ in range(case.steps):
                with card.counted() as work:
                    next(made)
                works.append(work)
        except Exception as error:  # too little memory is a result too
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    row |= order | {"steps": len(works)}
    if measured := works[WARM:]:
        row |= {
            "launches": min(w.launches for w in measured),
            "syncs": min(w.syncs for w in measured),
            "seconds": min(w.seconds for w in measured),
            "copied": min(w.megabytes for w in measured),
        }
    return row


def choices_of(case: Case):
    """Returns the Choices of a case."""
    from lora2_core.host.training.choices import Choices

    start = {"start_rank": case.start} if case.start else {}
    return Choices.of(
        {
            "mode": case.mode, "target_rank": case.rank, "steps": 100_000, "layers": case.layers,
            "checkpointing": case.checkpointing, "batch_size": case.batch,
            "optimizer": case.optimizer, "torch_compile": case.compiled, **start,
        }
    )  # fmt: skip


def steps(case: Case, model, data, row: dict):
    """Yields after every step of a real run; `row` gets the memory that it took."""
    from lora2_core.host.training.inputs import check_inputs
    from lora2_core.host.training.run import steps_of
    from lora2_core.host.training.setup import set_up

    choices = choices_of(case)
    with torch.inference_mode():
        inputs = check_inputs(model, *data, choices)
        with set_up(model, inputs, choices, row.setdefault("notes", []).append) as setup:
            row["model"] = loaded(model)
            row["whole"] = model.model_size() / 1e9
            if setup.plan is not None:
                row |= {"plan": setup.plan.text, "need": setup.plan.need.__dict__}
                row["beside"] = setup.plan.beside
            torch.cuda.reset_peak_memory_stats()
            for number, _ in enumerate(steps_of(setup, choices), 1):
                row["peak"] = torch.cuda.max_memory_allocated() / 1e9 - row["model"]
                row["reserved"] = torch.cuda.max_memory_reserved() / 1e9
                row["checkpointed"] = setup.checkpointing.on
                row["ranks"] = sum(setup.adapters.ranks.values())
                if case.review and number == WARM:
                    row |= reviewed(setup.run)
                if case.preview and number == WARM + 1:
                    row["of_preview"] = unordered_of_preview(setup, data)
                    row["after_preview"] = loaded(model)
                yield


def unordered_of_preview(setup, data) -> int:
    """Samples as a preview does; returns how many unordered copies the host made for it."""
    from lora2_core.host.training.previews import Preview, empty_latent, sample
    from tests.null_gpu import card

    latents, captions = data
    preview = Preview(captions[0], None, steps=2)
    latent = empty_latent(preview, latents[0]["samples"], setup.loan.inner.latent_format)
    before = card.library.nullgpu_unordered()
    with setup.loan.paused() as patcher:
        sample(patcher, preview, latent)
    return card.library.nullgpu_unordered() - before


def reviewed(run) -> dict:
    """Returns what a review of all ranks costs, noise looked for, and a copy of the adapter. Such a
    review turns every layer to its singular basis; `unturned` is one that turns none.
    """
    from lora2_core.training.last_good import LastGood
    from tests.null_gpu import card

    price, last_good = run.price, LastGood(run)
    before = price.index, price.steps, price.every
    works = []
    for turn in (type(run.adapters).turn, lambda *_: None):
        price.index, price.steps, price.every = 10, 17, 1
        turning = patch.object(type(run.adapters), "turn", turn)
        with turning, card.with_values(), card.counted() as work:
            price.review(run.optimizer, 1.0)
        works.append(work)
        price.index, price.steps, price.every = before
        price.targets = None
    review, unturned = works
    with card.counted() as copy:
        last_good.copies.of(last_good.captured())
        last_good.finite()
    return {
        "review": review.seconds, "review_syncs": review.syncs, "review_launches": review.launches,
        "unturned": unturned.seconds,
        "copy": copy.seconds, "copy_syncs": copy.syncs,
    }  # fmt: skip


def limit(case: Case, model, data):
    """Yields after every forward and backward pass of the frozen model, with gradients up to the
    output of every layer that would be adapted.
    """
    from lora2_core.host.training.examples import make_examples
    from lora2_core.host.training.loan import on_loan
    from lora2_core.host.training.objective import make_loss
    from lora2_core.host.training.pictures import Pictures

    def reach(_module, _inputs, output):
        return output if output.requires_grad else output.requires_grad_()

    choices = choices_of(Case(**{**asdict(case), "mode": "fixed"}))
    with torch.inference_mode():
        pictures = Pictures.of(model, *data)
        with on_loan(model) as inner:
            examples = make_examples(model, inner, pictures)
            loss_fn = make_loss(inner, examples, case.batch, {})
            for layer in choices.target.chosen(inner).values():
                layer.register_forward_hook(reach)
            generator = torch.Generator().manual_seed(0)
            while True:
                loss = loss_fn(generator)
                loss.backward()
                loss.item()
                yield


def loaded(model) -> float:
    """Returns the GB of a model's weights that lie on the card."""
    return sum(p.numel() * p.element_size() for p in model.model.parameters() if p.is_cuda) / 1e9


def main() -> None:
    from tests.hosting.inprocess import enter

    enter(Path(os.environ["LORA2_HOST"]))
    import comfy.ops
    import comfy_kitchen
    from comfy.cli_args import args

    for backend in ("cuda", "triton"):  # they launch without torch
        comfy_kitchen.disable_backend(backend)
    priority = getattr(comfy.ops, "SDPA_BACKEND_PRIORITY", [])
    if CUDNN in priority:  # which the null GPU has no plan of
        priority.remove(CUDNN)
    # as the host's main.py sets it on such a card, and torch's allocator with it
    args.cuda_malloc = torch.cuda.memory.get_allocator_backend() == "cudaMallocAsync"
    print(MARK + json.dumps(measure(Case(**json.loads(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    main()
