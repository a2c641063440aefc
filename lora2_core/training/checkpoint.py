"""Checkpoint files: a run between two steps as one .safetensors, to be taken up again exactly.

Tensors are the run's state; the metadata holds VERSION, the plain values and whose run it is as
JSON, and a hash of all of it. Nothing is run when a file is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..files.tensor_file import Header, read, read_header
from .run import Run
from .run_state import captured, joined, restore, split

VERSION = "1"
NAMED = 4  # differences that a sentence names
LEARNED = (
    "adapters/",
    "optimizer/",
)  # always finite, as losses of skipped steps are not
ENTRY = "lora2.checkpoint"  # the one entry of the metadata: several have no fixed order
KEYS = ("version", "card", "state", "hash")
LONGEST = 100_000_000  # bytes of a header, which names every tensor of the optimizer twice


@dataclass(frozen=True)
class Card:
    """Whose checkpoint it is and of when.

    run: an id of the run, the same for all its checkpoints. order: rises with every checkpoint that
    is written beside others. settings: everything that the run depends on, in plain values. layers:
    [name, out, fan_in] of every adapted layer. pictures: some values of what is trained on, which
    the caller may compare with its own.
    """

    run: str
    order: int
    step: int
    settings: dict
    layers: list[list]
    pictures: list

    @classmethod
    def of(
        cls, run: Run, name: str, order: int, settings: Mapping, pictures: Sequence = ()
    ) -> Card:
        plain = json.loads(json.dumps(dict(settings)))  # as a file gives them back
        return cls(name, order, len(run.losses), plain, layers_of(run), list(pictures))


def layers_of(run: Run) -> list[list]:
    """Returns [name, out, fan_in] of every adapted layer."""
    return [[n, c.fan_out, c.fan_in] for n, c in run.adapters.components.items()]


def digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Returns SHA-256 of names, kinds, shapes and values, and of the texts."""
    found = hashlib.sha256(json.dumps(dict(sorted(texts.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def encode(run: Run, card: Card) -> bytes:
    """Returns the bytes of a checkpoint of the run. ValueError inside an update, or for NaN in
    it.
    """
    if not run.whole:
        raise ValueError("The run is inside an update: a checkpoint is taken between two steps.")
    tensors: dict[str, Tensor] = {}
    plain = split(captured(run), tensors)
    tensors = apart({k: t.cpu().contiguous() for k, t in tensors.items()})
    for name, tensor in tensors.items():
        if name.startswith(LEARNED) and not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite numbers.")
    texts = {"version": VERSION, "card": json.dumps(vars(card)), "state": json.dumps(plain)}
    texts |= {"hash": digest(tensors, texts)}
    return safetensors.torch.save(tensors, {ENTRY: json.dumps(texts)})


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the same tensors, none in the memory of another, which a file can't hold."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def texts_of(header: Header) -> dict[str, str]:
    """Returns the metadata by KEYS; ValueError when it is no checkpoint or one of another
    version.
    """
    name = header.name
    if ENTRY not in header.metadata:
        raise ValueError(f"{name} is no checkpoint of LoRA2 Train.")
    try:
        texts = json.loads(header.metadata[ENTRY])
        if {k: type(v) for k, v in texts.items()} != dict.fromkeys(KEYS, str):
            raise TypeError("its entries are others")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: its metadata can't be read ({error}).") from error
    if texts["version"] != VERSION:
        raise ValueError(
            f"{name} is a checkpoint of version {texts['version']!r}, but this LoRA2 reads "
            f"version {VERSION}: continue it with the version that wrote it."
        )
    return texts


def card_of(texts: Mapping[str, str], name: str) -> Card:
    """Returns the card, its fields checked."""
    kinds = {
        "run": str, "order": int, "step": int, "settings": dict, "layers": list, "pictures": list
    }  # fmt: skip
    try:
        fields = json.loads(texts["card"])
        if {k: type(v) for k, v in fields.items()} != kinds:
            raise TypeError("its fields are others")
        return Card(**fields)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: its card can't be read ({error}).") from error


def read_card(path: Path) -> Card:
    """Returns the card from the header alone, unverified. ValueError or OSError when it can't be
    read.
    """
    header = read_header(path, longest=LONGEST)
    return card_of(texts_of(header), header.name)


def decode(path: Path) -> tuple[Card, dict]:
    """Returns the card and the state of a file, verified; ValueError in one sentence that names
    it.
    """
    header, payload = read(path, texts_of, longest=LONGEST)
    texts, tensors, name = texts_of(header), header.tensors(payload), header.name
    if digest(tensors, {k: v for k, v in texts.items() if k != "hash"}) != texts["hash"]:
        raise ValueError(
            f"{name} is damaged: its contents don't match its own hash. Choose an older checkpoint."
        )
    try:
        return card_of(texts, name), joined(json.loads(texts["state"]), tensors)
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: its state can't be read ({error}).") from error


def resume(run: Run, path: Path, settings: Mapping) -> Card:
    """Returns a fresh run goes on where the file's left off. ValueError in one sentence that names
    the file when it is damaged, or of another version, model or settings; the run is then of no
    use.
    """
    card, state = decode(path)
    there, here = card.layers, layers_of(run)
    if there != here:
        raise ValueError(f"{path.name} belongs to another model: {layers_differ(there, here)}.")
    if different := differences(card.settings, settings):
        raise ValueError(
            f"{path.name} belongs to another run: {different}. Set what differs as it was there, "
            f"or start anew.{longer(card.settings, settings)}"
        )
    try:
        restore(run, state)
    except ValueError as error:
        raise ValueError(f"{path.name} can't be continued: {error}.") from error
    return card


def layers_differ(there: list, here: list) -> str:
    """Returns the first layer that is not the same."""
    if len(there) != len(here):
        return f"it has {len(there)} trained layers, and there are {len(here)} here"
    one, other = next((a, b) for a, b in zip(there, here, strict=True) if a != b)
    (name, *shape), (own, *own_shape) = one, other
    return f"it has a layer {name} of shape {shape} where there is {own} of {own_shape} here"


def differences(there: Mapping, here: Mapping) -> str:
    """Returns `steps 500 there, 400 here` for each setting that is not the same; "" when all
    are.
    """
    here = json.loads(json.dumps(dict(here)))  # as a file gives them back
    names = [k for k in dict(there) | here if there.get(k) != here.get(k)]
    told = [f"{k} {shown(there.get(k))} there, {shown(here.get(k))} here" for k in names[:NAMED]]
    if len(names) > NAMED:
        told.append(f"and {len(names) - NAMED} more")
    return "; ".join(told)


def longer(there: Mapping, here: Mapping) -> str:
    """Returns what to do instead where the run shall have more steps than it had; "" where it shall
    not.
    """
    steps = there.get("steps"), here.get("steps")
    if not all(isinstance(n, int) for n in steps) or steps[1] <= steps[0]:
        return ""
    return (
        " To train on for more steps than it had, choose its adapter in LoRA2 Start Options, and "
        "no checkpoint to resume."
    )


def shown(value: object) -> str:
    """Returns a value in a sentence."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
