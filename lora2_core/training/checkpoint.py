"""Checkpoint files: a run between two steps as one .safetensors, from which it continues exactly.

The tensors are the run's state. The metadata holds VERSION, the state's plain values and the run's
card as JSON, and a hash of everything. No code is run when a file is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from einops import rearrange
from torch import Tensor

from ..files.tensor_file import Header, read, read_header
from .run import Run
from .run_state import captured, joined, restore, split

VERSION = "1"
# differing settings that an error names; further ones are counted
NAMED = 4
# names of tensors that must be finite begin so; losses of skipped steps need not be
LEARNED = ("adapters/", "optimizer/")
# the only entry of the metadata, since several have no fixed order and files must be equal in bytes
ENTRY = "lora2.checkpoint"
KEYS = ("version", "card", "state", "hash")
# bytes of a header, far above any real one: it names each tensor twice, and a model of 1,000 layers
# comes to about 2 MB
LONGEST = 100_000_000


@dataclass(frozen=True)
class Card:
    """The run that a checkpoint belongs to, and its step.

    run: an id of the run, the same in all its checkpoints. order: a number that rises with every
    checkpoint in a folder. settings: everything that the run depends on, in plain values. layers:
    [name, out, fan_in] of every adapted layer. pictures: some values of the training data, to be
    compared with those of a run that continues.
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
        """Returns the card of a run as it is now."""
        plain = json.loads(json.dumps(dict(settings)))  # as a file gives them back
        return cls(name, order, len(run.losses), plain, layers_of(run), list(pictures))


def layers_of(run: Run) -> list[list]:
    """Returns [name, out, fan_in] of every adapted layer."""
    return [[n, c.fan_out, c.fan_in] for n, c in run.adapters.components.items()]


def digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Returns the SHA-256 of the texts and of the tensors' names, dtypes, shapes and values."""
    sha = hashlib.sha256(json.dumps(dict(sorted(texts.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            sha.update(rearrange(tensor, "... -> (...)").view(torch.uint8).numpy())
    return sha.hexdigest()


def encode(run: Run, card: Card) -> bytes:
    """Returns the bytes of a checkpoint of the run. Raises ValueError inside an update, and when a
    learned value is NaN or infinite.
    """
    if not run.between_steps:
        raise ValueError("The run is inside an update: a checkpoint is taken between two steps.")
    tensors: dict[str, Tensor] = {}
    plain = split(captured(run), tensors)
    tensors = unshared({k: t.cpu().contiguous() for k, t in tensors.items()})
    for name, tensor in tensors.items():
        if name.startswith(LEARNED) and not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite numbers.")
    texts = {"version": VERSION, "card": json.dumps(vars(card)), "state": json.dumps(plain)}
    texts |= {"hash": digest(tensors, texts)}
    return safetensors.torch.save(tensors, {ENTRY: json.dumps(texts)})


def unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors, with a copy of each that shares memory with one before it: a file can't
    hold shared memory.
    """
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return separate


def texts_of(header: Header) -> dict[str, str]:
    """Returns the metadata of a checkpoint, by KEYS. Raises ValueError when the file is no
    checkpoint, or one of another version.
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
    """Returns the card of a checkpoint's metadata. Raises ValueError when a field is not of its
    type.
    """
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
    """Returns the card of a checkpoint from its header alone, whose hash is not checked. Raises
    ValueError or OSError when it can't be read.
    """
    header = read_header(path, longest=LONGEST)
    return card_of(texts_of(header), header.name)


def decode(path: Path) -> tuple[Card, dict]:
    """Returns the card and the state of a checkpoint, with the hash checked. Raises ValueError when
    the file is damaged.
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
    """Continues the run of a checkpoint in a new Run, and returns its card. Raises ValueError when
    the file is damaged, or of another version, model or settings; the new Run is then of no use.
    """
    card, state = decode(path)
    saved, own = card.layers, layers_of(run)
    if saved != own:
        raise ValueError(f"{path.name} belongs to another model: {layers_differ(saved, own)}.")
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


def layers_differ(saved: list, own: list) -> str:
    """Returns how the layers of a checkpoint differ from this run's: their number, or the first
    that is another.
    """
    if len(saved) != len(own):
        return f"it has {len(saved)} trained layers, and there are {len(own)} here"
    (name, *shape), (own_name, *own_shape) = next(
        (a, b) for a, b in zip(saved, own, strict=True) if a != b
    )
    return f"it has a layer {name} of shape {shape} where there is {own_name} of {own_shape} here"


def differences(saved: Mapping, own: Mapping) -> str:
    """Returns `steps 500 there, 400 here` for each setting of a checkpoint that differs from this
    run's; "" when none does.
    """
    own = json.loads(json.dumps(dict(own)))  # as a file gives them back
    names = [k for k in {**saved, **own} if saved.get(k) != own.get(k)]
    parts = [f"{k} {shown(saved.get(k))} there, {shown(own.get(k))} here" for k in names[:NAMED]]
    if len(names) > NAMED:
        parts.append(f"and {len(names) - NAMED} more")
    return "; ".join(parts)


def longer(saved: Mapping, own: Mapping) -> str:
    """Returns a sentence on how to train for more steps than the checkpoint's run has; "" where
    that is not what differs.
    """
    before, steps = saved.get("steps"), own.get("steps")
    if not (isinstance(before, int) and isinstance(steps, int) and steps > before):
        return ""
    return (
        " To train on for more steps than it had, choose its adapter in LoRA2 Start Options, and "
        "no checkpoint to resume."
    )


def shown(value: object) -> str:
    """Returns a value in a sentence."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
