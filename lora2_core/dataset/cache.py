"""A cache of tensors on disk, by key. Files are checked when they are read; a damaged one counts as
missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save
from torch import Tensor

from ..atomic import write_atomic
from ..files.tensor_file import read
from ..saying import log

# bytes of all files: 8 GB hold the latents of some 30,000 pictures at 1024 x 1024 (SDXL)
MOST_BYTES = 8 * 2**30
# name of the tensor that holds the hash of the others
DIGEST = "sha256"


def key_of(*facts: object) -> str:
    """Returns a key, which is a file name too, for the facts that a result depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest_of(tensors: dict[str, Tensor]) -> Tensor:
    """Returns the SHA-256 of the tensors' names, shapes, dtypes and values, as 32 bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = rearrange(tensor.contiguous(), "... -> (...)")
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


class Cache:
    """A folder with a safetensors file for each key. It may be deleted: nothing is lost but
    time.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES):
        self.folder, self.most_bytes = folder, most_bytes

    def path(self, key: str) -> Path:
        """Returns the file of a key."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Returns the tensors that were written under a key, on the CPU. None when there are none,
        or, with a warning, when the file is damaged.
        """
        path = self.path(key)
        try:
            header, payload = read(path)
            os.utime(path)  # for `trim`: used now
            tensors = header.tensors(payload)
            if torch.equal(tensors.pop(DIGEST), digest_of(tensors)):
                return tensors
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s can't be read (%s): made again.", path, error.strerror)
            return None
        except (KeyError, ValueError):
            pass  # the warning below
        log.warning("%s is damaged: made again.", path)
        return None

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors under a key. A full or read-only disk only causes a warning."""
        kept = {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
        }
        try:
            write_atomic(self.path(key), save(kept | {DIGEST: digest_of(kept)}))
        except OSError as error:
            log.warning("The cache %s can't be written: %s", self.folder, error)

    def trim(self) -> None:
        """Deletes the least recently used files until the others keep to the size limit."""
        files = [(p.stat(), p) for p in self.folder.rglob("*") if p.is_file()]
        total = sum(facts.st_size for facts, _ in files)
        for facts, path in sorted(files, key=lambda f: f[0].st_mtime_ns):
            if total <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= facts.st_size
