"""Writing a file so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which doesn't let a file be removed while it is open
    fcntl = None  # type: ignore[assignment]

# names of the temporary files that threads of this process write
_being_written: set[str] = set()
# seconds without a change after which a temporary file counts as abandoned; where locks are seen,
# a file without one is swept at once
OLD = 3600


def locked(file: BinaryIO) -> bool:
    """Locks an open file until the process ends; returns False when another process holds the
    lock.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Removes the half-written files that dead processes left in a folder."""
    for orphan in folder.glob(".*.tmp"):
        if orphan.name in _being_written:
            continue
        with suppress(OSError), open(orphan, "r+b") as file:
            old = time.time() - orphan.stat().st_mtime > OLD
            if orphan.name.split(".")[-2].isdecimal() and (locked(file) or old):
                if fcntl is None:
                    file.close()
                orphan.unlink()


def prepare(folder: Path, named: str, other: str) -> Path:
    """Makes a folder for files of `write_atomic`, removes half-written ones in it, and returns it.

    Raises ValueError where it can't be made or written: `named` is how the sentence begins ("The
    folder of 'owl'"), `other` what the user may choose instead ("another one").
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        raise ValueError(f"{named} can't be made ({error.strerror}): choose {other}.") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{named} can't be written: choose {other} or change its rights.")
    return folder


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file at once or not at all: a temporary file in the same folder, fsync, read back,
    rename, fsync of the folder.

    Raises OSError when the folder can't be written or the bytes read back differ; the old file
    then stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _being_written.add(temporary.name)
    temporary.unlink(missing_ok=True)  # a dead process may have had our process number
    try:
        with open(temporary, "xb") as file:
            locked(file)  # for `sweep`
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if temporary.read_bytes() != data:
                raise OSError(
                    f"{path.name} read back differently from what was written: check the disk."
                )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _being_written.discard(temporary.name)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems can't
                raise
        finally:
            os.close(folder)
