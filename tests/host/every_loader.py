"""What the host's own loader makes of LoRA files, and what LoRA² makes of them: read, and saved
again in every form. A way from a file to an adapter is a line of ROUTES.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import safetensors.torch
import torch
from comfy.weight_adapter import BOFTAdapter, OFTAdapter
from torch import Tensor

from lora2_core.files.saving import FORMATS
from lora2_core.host.naming import diffusers_paths

from .every_file import files

NEAR = 1e-6  # of the largest value: what counts as equal to the host's own loader
SAME_UPDATE = 1e-4  # of its norm: what counts as not lost, after an SVD in fp32 and a file
Route = Callable[[Mapping, object, str], object]
# (nodes, model, file) -> the adapter
ROUTES: dict[str, Route] = {
    "Load": lambda nodes, model, name: nodes["LoRA2Load"].execute(model, name).result[2],
    "Compress": lambda nodes, model, name: (
        nodes["LoRA2Compress"].execute(name, 0.0, 1e-6).result[0]
    ),
    "Compress with model": lambda nodes, model, name: (
        nodes["LoRA2Compress"].execute(name, 0.0, 1e-6, model=model).result[0]
    ),
    "Merge": lambda nodes, model, name: (
        nodes["LoRA2Merge"].execute(lora_stack=[(name, 1.0, 1.0)], model=model).result[0]
    ),
}
USUAL = ("Load", "Compress")


def extracted(nodes: Mapping, model, name: str) -> object:
    """The difference that the host's own loader makes, extracted as an adapter."""
    path = folder_paths.get_full_path_or_raise("loras", name)
    tensors = comfy.utils.load_torch_file(path, safe_load=True)
    tuned, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    given = {"model": tuned, "base": model, "budget_mb": 0.0, "tolerance": 1e-6}
    return nodes["LoRA2Extract"].execute(rest=True, **given).result[0]


ROUTES["Extract"] = extracted


class Fails(Exception):
    """The host's own loader takes a file, and fails when its patches are computed."""


def stock(path: Path, model, clip=None) -> dict[str, Tensor]:
    """Weight -> its patched value, by the host's own loader. Where that fails, a picture would in
    the middle: Fails.
    """
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    try:
        patched, _ = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
        return weights(patched)
    except (RuntimeError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise Fails from error


def weights(patcher) -> dict[str, Tensor]:
    """In fp64, so that what differs is not the rounding of the sums; the host computes OFT in fp32
    only.
    """
    state, single = patcher.model.state_dict(), (OFTAdapter, BOFTAdapter)

    def patched(key: str, patches: list) -> Tensor:
        dtype = torch.float32 if any(isinstance(p[1], single) for p in patches) else torch.float64
        weight = state[key].to(dtype, copy=True)
        return comfy.lora.calculate_weight(patches, weight, key, dtype).double()

    return {key: patched(key, patches) for key, patches in patcher.patches.items()}


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The most that a weight differs, of its largest value; infinity where another is patched."""
    if ours.keys() != theirs.keys():
        return math.inf
    most = 0.0
    for key, wanted in theirs.items():
        if ours[key].shape != wanted.shape:
            return math.inf
        off = float((ours[key] - wanted).abs().max() / wanted.abs().max().clamp(min=1))
        most = max(most, off)
    return most


def changes(patched: dict[str, Tensor], model) -> dict[str, Tensor]:
    """The patched weights that are not what they were."""
    state = model.model.state_dict()
    return {k: v for k, v in patched.items() if not torch.equal(v, state[k].double())}


def lost(saved: dict[str, Tensor], source: dict[str, Tensor], model) -> list[str]:
    """The weights whose update is not that of the source file. Where the host computes none, since
    its own code fails on a layer and says so, there is nothing to lose.
    """
    state, gone = model.model.state_dict(), []
    for key, wanted in source.items():
        before = state[key].double()
        if torch.equal(wanted, before):
            continue
        update = wanted - before if wanted.shape == before.shape else wanted
        got = saved.get(key, before)
        now = got - before if got.shape == before.shape else got
        if now.shape != update.shape or (now - update).norm() > SAME_UPDATE * update.norm() + 1e-6:
            gone.append(key)
    return gone + [f"{k}: never in it" for k in changes(saved, model).keys() - source.keys()]


@dataclass
class Tally:
    """What came out of files: how many were tried, equal, refused with a sentence, and wrong; and
    the kinds of which the host itself makes nothing.
    """

    tried: int = 0
    equal: int = 0
    refused: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    idle: set[str] = field(default_factory=set)

    def add(self, other: Tally) -> None:
        self.tried, self.equal = self.tried + other.tried, self.equal + other.equal
        self.refused += other.refused
        self.wrong += other.wrong
        self.idle |= other.idle

    def as_json(self) -> dict:
        """For another process; `of` makes it again."""
        return vars(self) | {"refused": dict(self.refused), "idle": sorted(self.idle)}

    @classmethod
    def of(cls, found: Mapping) -> Tally:
        counted = {"refused": Counter(found["refused"]), "idle": set(found["idle"])}
        return cls(**{**found, **counted})

    def line(self) -> str:
        refused = sum(self.refused.values())
        return f"{self.tried} tried, {self.equal} equal, {refused} refused, {len(self.wrong)} wrong"


def compare_loaders(
    nodes: dict, model, folder: Path, family: str, tally: Tally, every=files
) -> None:
    """LoRA2Load at keep 1 against the host's own loader, on every file."""
    for what, spelling, tensors in every(model):
        path = folder / "every.safetensors"
        safetensors.torch.save_file(tensors, path)
        tally.tried += 1
        title = f"{family}, {what}, {spelling}"
        try:
            theirs = stock(path, model)
        except Fails:
            theirs = None
        try:
            ours = weights(nodes["LoRA2Load"].execute(model, path.name).result[0])
        except ValueError as error:
            if theirs and any(
                not torch.equal(theirs[k], model.model.state_dict()[k]) for k in theirs
            ):
                tally.wrong.append(f"{title}: refused: {error}")
            else:
                tally.refused[str(error).partition(":")[0]] += 1
            continue
        if theirs is None:  # read by LoRA2Load alone
            tally.idle.add(f"{what} (it fails)")
            tally.equal += 1
            continue
        if not changes(theirs, model):
            tally.idle.add(what)
        if what.endswith("alpha 0"):  # an update of nothing is no patch here
            theirs = changes(theirs, model)
        if (off := difference(ours, theirs)) > NEAR:
            tally.wrong.append(f"{title}: differs by {off:.1e}")
        else:
            tally.equal += 1


def round_trips(
    nodes: dict,
    model,
    folder: Path,
    family: str,
    tally: Tally,
    every=files,
    routes: Collection[str] = USUAL,
    turn: bool = False,
) -> None:
    """A route from a file to an adapter, then Save in every form, then the host's own loader:
    nothing may be lost without a sentence. UNets in the peft form are for diffusers: the host does
    not read these.

    turn: a file takes one of the routes and one of the forms, the next file the next ones.
    """
    forms = [form for form in FORMATS if form != "peft" or not diffusers_paths(model)]
    for number, (what, spelling, tensors) in enumerate(every(model)):
        path = folder / "every.safetensors"
        safetensors.torch.save_file(tensors, path)
        try:
            source = stock(path, model)
        except Fails:
            continue
        if not changes(source, model):
            tally.idle.add(what)  # ComfyUI itself makes nothing of it
            continue
        turns, place = divmod(number, len(routes))
        chosen = [forms[(turns + place) % len(forms)]] if turn else forms
        for how in [list(routes)[place]] if turn else routes:
            try:
                lora = ROUTES[how](nodes, model, path.name)
            except ValueError as error:
                tally.tried += 1
                tally.refused[f"{how}: {reason(error)}"] += 1
                continue
            if said(lora) > SAME_UPDATE:  # of layers that have more positions than are kept
                tally.tried += 1
                tally.refused[f"{how}: shows an error above the tolerance"] += 1
                continue
            title = f"{family}, {what}, {spelling}, {how}"
            for form in chosen:
                saved_again(nodes, model, (lora, form, folder), source, tally, title)


def said(lora) -> float:
    """The largest error that a node shows of what it has made."""
    facts = lora.origin.run.settings.values()
    return max((f["error"] for f in facts if isinstance(f, Mapping) and "error" in f), default=0.0)


def saved_again(
    nodes: dict, model, file: tuple, source: dict[str, Tensor], tally: Tally, title: str
) -> None:
    """Counts whether an adapter that is saved in a form changes what its source changed.

    file: the adapter, the form and the folder.
    """
    lora, form, folder = file
    tally.tried += 1
    try:
        save = nodes["LoRA2Save"].execute(lora, "every/out", format=form, dtype="fp32")
    except ValueError as error:
        tally.refused[f"{form}: {reason(error)}"] += 1
        return
    written = folder / save.result[0]
    if gone := lost(stock(written, model), source, model):
        tally.wrong.append(f"{title}, {form}: {len(gone)} of {len(source)} lost, {gone[0]}")
    else:
        tally.equal += 1
    written.unlink()


def reason(error: ValueError) -> str:
    """A sentence without the names in it, so that equal ones are counted together."""
    return re.sub(r"layer \S+|Layer \S+|\S+\.safetensors|first: \S+|\d+", "…", str(error))[:90]
