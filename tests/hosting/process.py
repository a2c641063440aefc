"""What a subprocess of this machine needs: a device, a port, the pack in place, a sure end."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path


@functools.cache
def device_arguments() -> tuple[str, ...]:
    """--cpu unless torch sees a GPU; LORA2_DEVICE=cpu forces it.

    Asked in a subprocess: torch takes memory that the caller does not need.
    """
    look = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    if os.environ.get("LORA2_DEVICE") != "cpu":
        told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
        if told.stdout.strip() == "True":
            return ()
    return ("--cpu",)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link_pack(pack: Path, place: Path) -> None:
    """The pack at `place`: a link, or a copy where the system refuses links."""
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, place, ignore=shutil.ignore_patterns(".*", "tests", "demo-output"))


def stop_group(process: subprocess.Popen, patience: float = 10) -> None:
    """Ends a process started in its own session, with all its children."""
    if os.name == "nt":
        process.kill()
        process.wait()
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def exit_on_sigterm() -> None:
    """Turns SIGTERM into SystemExit: `with` blocks end, and no server outlives its starter."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
