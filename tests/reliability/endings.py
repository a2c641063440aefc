"""Figures 8 to 13: how trainings end, and what they leave."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

import lora2_core as lora2
from lora2_core.host.training import memory, setup
from lora2_core.host.training.checkpoint_files import file_of, folder_of
from lora2_core.training.checkpoint import decode
from lora2_core.training.run import PATIENCE
from tests.reliability.figures import Figure
from tests.reliability.trainings import (
    Trainings,
    bytes_of,
    changed,
    host_state,
    losses_through,
    resources,
    stop_at,
)

STEPS, MEMORY_STEPS = 40, 12
NAN, INF = float("nan"), float("inf")


def kept(name: str, resume: str = "none", every: int = STEPS) -> dict:
    return {"checkpoint_every": every, "checkpoint_name": name, "resume": resume, "keep_last": 9}


def same(one: object, other: object) -> bool:
    """Whether two states are equal to the last bit."""
    if torch.is_tensor(one):
        return torch.is_tensor(other) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def resumed_otherwise(trainings: Trainings, count: int, seed: int) -> list[int]:
    """Of runs interrupted at random steps and resumed three times over, those that differ from the
    uninterrupted one in adapter, losses, ranks, optimizer or random state.
    """
    random, different = Random(seed), []
    options = {"steps": STEPS}
    whole = trainings(**options, **kept("whole"))
    state = decode(file_of(whole.checkpoint))[1]
    for number in range(count):
        name, resume = f"resumed{seed}-{number}", "none"
        for step in sorted(random.sample(range(1, STEPS), 3)):
            resume = trainings(stop_at(step), **options, **kept(name, resume)).checkpoint
        last = trainings(**options, **kept(name, resume))
        if bytes_of(last) != bytes_of(whole) or not same(
            decode(file_of(last.checkpoint))[1], state
        ):
            different.append(number)
    return different


def figure_8(trainings: Trainings, count: int, seed: int) -> Figure:
    different = resumed_otherwise(trainings, count, seed)
    measured = f"{count} runs interrupted at random steps and resumed three times over, on the CPU "
    measured += f"in fp32: {count - len(different)} bitwise equal; on a GPU not measured"
    return Figure(8, measured, False)  # the goal has a GPU too


def payload_hashes(trainings: Trainings, count: int) -> set[str]:
    """SHA-256 of the payload of runs of one seed, whatever the global random state."""
    found = set()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            torch.manual_seed(number)
            path = Path(folder, "a.safetensors")
            lora2.save(path, trainings().lora)
            found.add(lora2.load(path).origin.file.metadata["sshs_model_hash"])
    return found


def figure_9(trainings: Trainings, count: int) -> Figure:
    hashes = payload_hashes(trainings, count)
    before = torch.get_rng_state()
    trainings()
    untouched = torch.equal(before, torch.get_rng_state())
    measured = f"{count} runs of one seed under other global random states: {len(hashes)} payload, "
    measured += f"the global state {'untouched' if untouched else 'CHANGED'}"
    return Figure(9, measured, len(hashes) == 1 and untouched)


def raise_at(number: int, error: Exception) -> Callable:
    """For losses_through: the loss of that number raises."""

    def change(count: int, loss: torch.Tensor) -> torch.Tensor:
        if count == number:
            raise error
        return loss

    return change


def nan_from(number: int) -> Callable:
    """For losses_through: every loss from that number on is NaN."""
    return lambda count, loss: loss * NAN if count >= number else loss


def success(trainings: Trainings) -> None:
    trainings()


def interrupt(trainings: Trainings) -> None:
    trainings(stop_at(3))


def an_exception(trainings: Trainings) -> None:
    with losses_through(raise_at(4, KeyError("unexpected"))):
        trainings()


def out_of_memory(trainings: Trainings) -> None:
    """It ends the one run, and the other goes on with checkpointing."""
    for checkpointing in ("off", "auto"):
        with losses_through(raise_at(4, torch.OutOfMemoryError("out of memory"))):
            trainings(checkpointing=checkpointing)


def nan_abort(trainings: Trainings) -> None:
    with losses_through(nan_from(3)):
        trainings()


ENDINGS = (success, an_exception, interrupt, out_of_memory, nan_abort)


def left_behind(trainings: Trainings, repeats: int) -> list[str]:
    """What is not as it was after each way to end, and what grows over repeats."""
    found, before = [], host_state(trainings.model)
    for end in ENDINGS:
        end(trainings)
        found += [
            f"{end.__name__}: {what}" for what in changed(before, host_state(trainings.model))
        ]
        for _ in range(3):  # allocators and caches fill
            end(trainings)
        memory, files, threads = resources()
        for _ in range(repeats):
            end(trainings)
        grown = resources()
        if grown[0] - memory > 2**20 or grown[1] > files or grown[2] > threads:
            found.append(
                f"{end.__name__}: {(grown[0] - memory) / 2**20:.2f} MiB, {grown[1] - files} files, "
                f"{grown[2] - threads} threads more after {repeats}"
            )
    return found


def figure_10(trainings: Trainings, repeats: int) -> Figure:
    found = left_behind(trainings, repeats)
    for fault in found:
        print(f"  {fault}")
    names = ", ".join(end.__name__.replace("_", " ") for end in ENDINGS)
    measured = f"after {names}: {len(found)} of the things listed changed, or grew over {repeats} "
    measured += "repeats by more than 1 MiB, a descriptor or a thread"
    return Figure(10, f"{measured}{': ' + '; '.join(found) if found else ''}", not found)


def poison_gradient(number: int, value: float) -> Callable:
    """The gradient of that step becomes a value that is none."""

    def change(count: int, loss: torch.Tensor) -> torch.Tensor:
        if count == number:
            loss.register_hook(lambda grad: grad * value)
        return loss

    return change


def with_bad_moments(trainings: Trainings, step: int, value: float):
    """A run whose optimizer remembers a value that is none after a step."""
    run_class, made = setup.Run, []

    class Seen(run_class):
        def __init__(self, *args: object, **kwargs: object):
            super().__init__(*args, **kwargs)
            made.append(self)

    def on_step(done) -> None:
        if done.index == step:
            state = made[0].optimizer.state
            for parameter in made[0].optimizer.weights[:4]:
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in state.get(parameter, {}):
                        state[parameter][name].fill_(value)

    setup.Run = Seen
    try:
        return trainings(on_step, steps=STEPS, **kept(f"bad{step}", every=5))
    finally:
        setup.Run = run_class


def poisoned(trainings: Trainings, seed: int, count: int) -> tuple[int, list[str]]:
    """(cases, what went wrong) of NaN and infinity in loss, gradient and optimizer state."""
    random, wrong, cases = Random(seed), [], 0
    for number in range(count):
        value, step = random.choice([NAN, INF, -INF]), random.randrange(2, 10)
        once = {
            "loss": lambda n, loss, s=step, v=value: loss * v if n == s else loss,
            "gradient": poison_gradient(step, value),
        }
        for what, change in once.items():  # one bad step is skipped
            with losses_through(change):
                out = trainings()
            wrong += faults_of(f"{what} {value} at {step}", out, stopped=False)
        with losses_through(lambda n, loss, s=step, v=value: loss * v if n >= s else loss):
            out = trainings(steps=STEPS)
        wrong += faults_of(f"loss {value} from {step}", out, stopped=True)
        if len(out.losses) != step - 1 + PATIENCE - 1:
            wrong.append(f"loss {value} from {step}: ended after {len(out.losses)} steps")
        out = with_bad_moments(trainings, 6 * (number % 5) + 5, value)
        wrong += faults_of(f"optimizer {value}", out, stopped=None)
        cases += 4
    return cases, wrong


def faults_of(what: str, outcome, stopped: bool | None) -> list[str]:
    """Whether an outcome is finite, ended as it should, and its checkpoints are finite too."""
    found = []
    tensors = [t for layer in outcome.lora.layers.values() for t in (layer.up, layer.down)]
    if not all(t.isfinite().all() for t in tensors):
        found.append(f"{what}: the adapter is not finite")
    if not any(t.any() for t in tensors):
        found.append(f"{what}: nothing was learned")
    if stopped is not None and (outcome.stopped_by is not None) != stopped:
        found.append(f"{what}: stopped by {outcome.stopped_by!r}")
    if outcome.checkpoint:
        for path in file_of(outcome.checkpoint).parent.glob("*.safetensors"):
            adapters = decode(path)[1]["adapters"]
            parts = [*adapters["lora_up"].values(), *adapters["lora_down"].values()]
            if not all(t.isfinite().all() for t in parts):
                found.append(f"{what}: {path.name} is not finite")
    return found


def bad_latents(trainings: Trainings) -> list[str]:
    """NaN and infinity in a latent are refused before training."""
    wrong = []
    for value in (NAN, INF):
        good = trainings.latents[0]["samples"]
        bad = good.clone()
        bad.view(-1)[3] = value
        trainings.latents[0]["samples"] = bad
        try:
            trainings()
            wrong.append(f"a latent with {value} is taken")
        except ValueError as error:
            if "NaN or infinite" not in str(error):
                wrong.append(str(error))
        finally:
            trainings.latents[0]["samples"] = good
    return wrong


def figure_12(trainings: Trainings, count: int, seed: int) -> Figure:
    cases, wrong = poisoned(trainings, seed, count)
    wrong += bad_latents(trainings)
    for fault in wrong[:20]:
        print(f"  {fault}")
    measured = f"{cases + 2} times NaN or infinity in loss, gradient, optimizer state and latents: "
    measured += f"{len(wrong)} with a value that is not finite kept, or not ended by the rule"
    return Figure(12, measured, not wrong)


def memory_faults(trainings: Trainings) -> tuple[int, list[str]]:
    """(cases, what went wrong): too little memory in forward or backward of each step."""
    wrong, cases = [], 0

    def in_backward(number: int) -> Callable:
        def fail(_grad: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("out of memory")

        def change(count: int, loss: torch.Tensor) -> torch.Tensor:
            if count == number:
                loss.register_hook(fail)
            return loss

        return change

    before = host_state(trainings.model)
    for step in range(1, MEMORY_STEPS + 1):
        ways = {
            "forward": raise_at(step, torch.OutOfMemoryError("out of memory")),
            "backward": in_backward(step),
            "the CPU's allocator": raise_at(
                step, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
            ),
        }
        for where, change in ways.items():
            cases += 1
            with losses_through(change):
                out = trainings(checkpointing="off")
            learned = len(out.losses) == step - 1
            if not (learned and memory.out_of_memory(out.stopped_by)):
                wrong.append(f"{where} of step {step}: {len(out.losses)} steps, {out.stopped_by!r}")
            wrong += [
                f"{where} of step {step}: {w}" for w in changed(before, host_state(trainings.model))
            ]
    return cases, wrong


def figure_13(trainings: Trainings) -> Figure:
    cases, wrong = memory_faults(trainings)
    for fault in wrong[:20]:
        print(f"  {fault}")
    measured = f"{cases} times too little memory, in forward and backward of every step: "
    measured += f"{len(wrong)} without the adapter so far, or with the model changed"
    return Figure(13, measured, not wrong)


def clean(name: str) -> None:
    """Removes the checkpoints of a name."""
    for path in folder_of(name).glob("*"):
        path.unlink()
