"""Tensors kept on disk by a key, checked when they are read: a damaged file is as good as none."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..atomic import write_atomic
from ..files.tensor_file import read
from ..saying import log

MOST_BYTES = 8 * 2**30
DIGEST = "sha256"


def key_of(*facts: object) -> str:
    """Returns a file name for everything that a result depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest_of(tensors: dict[str, Tensor]) -> Tensor:
    """Returns SHA-256 of names, shapes, types and values, as 32 bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


class Cache:
    """A folder of safetensors files, one a key. Nothing is lost when it is deleted."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES):
        self.folder, self.most_bytes = folder, most_bytes

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Returns what was written under a key, on the CPU; None, with a warning, for a damaged
        file.
        """
        path = self.path(key)
        try:
            header, payload = read(path)
            os.utime(path)  # the least recently used go first
            tensors = header.tensors(payload)
            if torch.equal(tensors.pop(DIGEST), digest_of(tensors)):
                return tensors
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s can't be read (%s): made again.", path, error.strerror)
            return None
        except (KeyError, ValueError):
            pass  # said below, with the other damages
        log.warning("%s is damaged: made again.", path)
        return None

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors under a key; a disk that is full or read-only is only a warning."""
        kept = {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
        }
        try:
            write_atomic(self.path(key), save(kept | {DIGEST: digest_of(kept)}))
        except OSError as error:
            log.warning("The cache %s can't be written: %s", self.folder, error)

    def trim(self) -> None:
        """Deletes the least recently used files above the size limit."""
        files = [(p.stat(), p) for p in self.folder.rglob("*") if p.is_file()]
        total = sum(facts.st_size for facts, _ in files)
        for facts, path in sorted(files, key=lambda f: f[0].st_mtime_ns):
            if total <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= facts.st_size
