"""A Chromium for the browser tests: the system's, else Debian's, else Playwright's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_or_install_chromium() -> Path:
    """The browser's executable, installed first where there is none.

    Raises:
        SystemExit: none of the three ways worked; one sentence says what to do.
    """
    for way in (_installed, _from_debian, _from_playwright):
        if (found := way()) is not None:
            return found
    raise SystemExit(
        "The browser tests need Chromium, and it could not be installed: install chromium or "
        "Google Chrome so that it is on the PATH."
    )


def launch_args() -> list[str]:
    """Flags for a headless run as root, without a GPU, that asks nothing of the network."""
    return [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]


def _installed() -> Path | None:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else None


def _from_debian() -> Path | None:
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        return None
    install = ["install", "-y", "--no-install-recommends", "chromium"]
    if _run("apt-get", "update", "-q") and _run("apt-get", "-q", *install):
        return _installed()
    return None


def _from_playwright() -> Path | None:
    if not _run(sys.executable, "-m", "playwright", "install", "chromium"):
        return None
    where = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as p: print(p.chromium.executable_path)"
    )
    told = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True)
    path = Path(told.stdout.strip())
    return path if path.is_file() else None


def _run(*command: str) -> bool:
    """Whether the command worked; all its output goes to standard error."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, env=quiet)
    return done.returncode == 0
