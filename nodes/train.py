"""LoRA² Train: an adapter whose ranks are learned, with live progress."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from server import PromptServer

from ..lora2_core import Step
from ..lora2_core.host import live_events
from ..lora2_core.host.apply import apply_lora
from ..lora2_core.host.behind import is_taken, running
from ..lora2_core.host.export import as_lora_model
from ..lora2_core.host.only_said import OnlySaid
from ..lora2_core.host.store import KEPT, RESCUED, check_prefix, save_under_loras
from ..lora2_core.host.training.console import Console
from ..lora2_core.host.training.hints import FINISHED, UNSAVED, UNTAKEN, hints
from ..lora2_core.host.training.live import Progress, count_pictures, last_step
from ..lora2_core.host.training.odd_values import odd_values
from ..lora2_core.host.training.previews import Shown
from ..lora2_core.host.training.run import HostRun, Outcome, out_of_memory, train_on
from ..lora2_core.ranks.settings import MODES
from ..lora2_core.saying import log
from . import inputs
from .checking import checked
from .sockets import (
    CATEGORY,
    SHOWN_AGAIN,
    Lora2,
    Lora2Options,
    LoraModel,
    check_model,
    check_options,
    first,
)

EVENT = "lora2.train"
ADAPTER_OUTPUTS = 3  # lora2, lora and model come first
ADVICE = (
    "Too little memory: lower batch_size or max_rank, take smaller pictures, or set checkpointing "
    "to on in LoRA2 Memory Options."
)


class LoRA2Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Train",
            display_name="LoRA\u00b2 Train",
            category=CATEGORY,
            description="Trains a LoRA beside the frozen model and learns the rank of every layer "
            "while it does. If the run is cancelled, or its adapter goes to no other node, the "
            "adapter is kept as a file.",
            search_aliases=[
                "train lora", "lora trainer", "adaptive rank", "dreambooth", "finetune",
                "fine-tune", "sdxl train", "train sdxl", "flux train", "train flux",
                "learning rate", "epochs", "batch size", "network dim", "network rank",
            ],
            is_input_list=True,
            is_output_node=True,  # else the host leaves it out where nothing is connected to it
            inputs=[
                io.Model.Input("model", tooltip="The base model. It is not changed."),
                io.Latent.Input(
                    "latents", tooltip="The pictures: one batch, or the list of a dataset node."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The captions: one for all pictures, or one for each."
                ),
                io.Int.Input(
                    "steps",
                    default=500,
                    min=1,
                    max=1_000_000,
                    tooltip="How often the adapter is updated.",
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=4096, tooltip="Pictures in one step."
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=0.0,
                    max=10.0,
                    step=1e-7,
                    round=1e-9,
                    tooltip="Learning rate of the adapter. 1e-4 suits SDXL, 5e-3 the Playground.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="adaptive",
                    tooltip="adaptive: learns how much rank each layer needs. paper: arXiv "
                    "2603.21884 to the letter. fixed: plain LoRA, one rank.",
                ),
                io.Int.Input(
                    "target_rank",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip="adaptive: the highest mean rank. paper: the rank that ranks are "
                    "pulled to. fixed: the rank.",
                ),
                inputs.budget(
                    "The size to end at in MB (fp16), instead of target_rank. 0: target_rank "
                    "counts."
                ),
                io.Int.Input(
                    "max_rank",
                    default=256,
                    min=1,
                    max=4096,
                    tooltip="No layer's rank goes above this.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="The same seed gives the same adapter.",
                ),
                Lora2Options.Input(
                    "options",
                    optional=True,
                    tooltip="LoRA\u00b2 Rank, Target, Memory, Optimizer, Loss, Data, Start, Text "
                    "Encoder, Preview and Checkpoint Options, chained.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect it to train the text encoder too; positive must come from "
                    "LoRA\u00b2 Dataset, or its captions go to LoRA\u00b2 Text Encoder Options.",
                ),
            ],
            outputs=[
                Lora2.Output(display_name="lora2"),
                LoraModel.Output(display_name="lora", tooltip="For the host's own LoRA nodes."),
                io.Model.Output(
                    display_name="model", tooltip="The model with the adapter applied."
                ),
                io.Clip.Output(
                    display_name="clip", tooltip="The clip that came in, with the adapter applied."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            **SHOWN_AGAIN,
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        model,
        latents,
        positive,
        steps,
        batch_size,
        learning_rate,
        mode,
        target_rank,
        budget_mb,
        max_rank,
        seed,
        options=None,
        clip=None,
    ) -> io.NodeOutput:
        clip = (clip or [None])[0]
        fields = {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "mode": mode,
            "target_rank": target_rank,
            "budget_mb": budget_mb,
            "max_rank": max_rank,
            "seed": seed,
        }
        fields = {name: first(name, values) for name, values in fields.items()} | {"clip": clip}
        check_model(first("model", model))
        chosen = check_options((options or [None])[0])
        run = HostRun.of({**chosen, **fields})
        check_prefix(RESCUED)
        say = OnlySaid()
        notes = say(hints, model[0], run, positive) or []
        notes += say(lambda: list(odd_values(run, latents))) or []
        taken = say(cls.is_taken) is not False
        if not taken:
            notes.append(UNTAKEN)
        progress = Progress(*cls.origin(), steps[0], notes)
        progress.batch_size, progress.pictures = run.batch_size, count_pictures(latents)
        say(lambda: cls.tell(progress.beginning()))
        data = model[0], latents, positive
        with Console(steps[0]) as console:
            outcome = train_on(*data, run, *cls.reporters(progress, console, say))
        if outcome.stopped is not None:
            raise cls.rescue(outcome, progress)
        if outcome.first == len(outcome.losses):
            progress.notes.append(FINISHED)
        if not taken:
            cls.keep(outcome, progress)
        say(progress.add, last_step(outcome.lora, outcome.losses, outcome.ceiling))
        if last := say(progress.event, whole=True):
            say(cls.tell, last)
        patched = apply_lora(model[0], clip, outcome.lora, 1.0, 1.0)
        shown = {EVENT: [last]} if last else {}
        return io.NodeOutput(outcome.lora, as_lora_model(outcome.lora), *patched, ui=shown)

    @classmethod
    def is_taken(cls) -> bool:
        """Returns whether a node that the host executes needs the adapter; where the host does not
        say, one does.
        """
        if cls.hidden is None:  # not called by the executor
            return True
        server = PromptServer.instance
        if (found := running(server, server.last_prompt_id)) is None:
            return True
        return is_taken(str(cls.hidden.unique_id), ADAPTER_OUTPUTS, *found)

    @classmethod
    def keep(cls, outcome: Outcome, progress: Progress) -> None:
        """Writes an adapter that goes to no other node, and lets the node say where it is."""
        try:
            progress.kept, _ = save_under_loras(outcome.lora, KEPT)
        except (OSError, ValueError, MemoryError) as error:  # the outputs still hold it
            log.error("The adapter could not be saved: %s", error or "too little memory")
            progress.notes.append(UNSAVED)
        else:
            log.info("The adapter is saved as %s.", progress.kept)

    @classmethod
    def origin(cls) -> tuple[str, str | None, str | None]:
        """Ids of this node, of the prompt and of the workflow: node ids repeat in others."""
        if cls.hidden is None:  # not called by the executor
            return "", None, None
        info = cls.hidden.extra_pnginfo
        info = info[0] if isinstance(info, list) else info
        workflow = ((info or {}).get("workflow") or {}).get("id")
        return cls.hidden.unique_id, PromptServer.instance.last_prompt_id, workflow

    @classmethod
    def reporters(cls, progress: Progress, console: Console, say: OnlySaid):
        """Called after every step: the host's progress bar, the terminal, live events, and the
        interrupt; and after every preview. `say` guards the run from all but the interrupt.
        """
        bar = comfy.utils.ProgressBar(progress.steps)

        def event(**kind) -> None:
            if kind or progress.due():
                cls.tell(progress.event(**kind))

        def report(step: Step) -> None:
            say(bar.update_absolute, step.index)
            say(console.step, step)
            say(progress.add, step)
            say(event)
            comfy.model_management.throw_exception_if_processing_interrupted()

        def show(shown: Shown) -> None:
            say(console.pause, shown.seconds)
            say(progress.show, shown)
            if progress.last is not None:  # else the first step tells of it
                say(event, whole=True)

        return report, show

    @classmethod
    def tell(cls, event: dict) -> None:
        """One live event, to every open page."""
        live_events.send(EVENT, event)

    @classmethod
    def rescue(cls, outcome: Outcome, progress: Progress) -> BaseException:
        """Saves what an ended run has learned; returns the exception to raise."""
        if not outcome.losses:
            return outcome.stopped
        cancelled = isinstance(outcome.stopped, comfy.model_management.InterruptProcessingException)
        name = None
        try:
            name, _ = save_under_loras(outcome.lora, RESCUED)
            kept = f"The adapter so far is saved as {name}."
        except (OSError, ValueError, MemoryError) as error:  # it must not hide why the run ended
            kept = f"The adapter so far could not be saved: {error or 'too little memory'}"
        if out_of_memory(outcome.stopped):
            kept = f"{ADVICE} {kept}"
        if outcome.checkpoint:
            kept += (
                f" To go on from there, choose resume {outcome.checkpoint} in LoRA2 Checkpoint "
                "Options (press R for the list)."
            )
        if progress.last is not None:  # else it only went through what it had resumed
            progress.end("cancelled" if cancelled else "failed", name)
            OnlySaid()(lambda: cls.tell(progress.event(whole=True)))
        log.warning("LoRA2 Train ended at step %d. %s", len(outcome.losses), kept)
        if cancelled:
            return outcome.stopped
        kind = torch.OutOfMemoryError if out_of_memory(outcome.stopped) else RuntimeError
        return kind(f"{outcome.stopped} {kept}")


NODES = [LoRA2Train]
