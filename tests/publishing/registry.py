"""The registry's own tool, as a person who publishes runs it, on a copy of the pack."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hosting.provision import cache_folder
from tests.publishing.ready import ROOT

GIT = ("git", "-c", "core.excludesFile=", "-c", "core.fsync=none")


def copied(folder: Path) -> Path:
    """Copies what git would commit into a repository of its own: the tool packs what git lists."""
    listed = run([*GIT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run([*GIT, "init", "-q"], folder)
    run([*GIT, "add", "--all"], folder)
    return folder


def comfy(folder: Path, *arguments: str) -> str:
    """What `comfy --skip-prompt …` prints in a folder; it writes nothing into the user's own."""
    tool = cache_folder() / "comfy-cli"
    assert tool.is_dir(), "run `nox -s tests`, which brings the registry's tool"
    home = folder.with_name("home")
    homes = {name: str(home) for name in ("HOME", "USERPROFILE", "APPDATA", "XDG_CONFIG_HOME")}
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", *arguments]
    return run(command, folder, PYTHONPATH=str(tool), PYTHONUTF8="1", **homes)


def run(command: list[str], folder: Path, **variables: str) -> str:
    """What a command prints; AssertionError with its words where it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # the tool says some of it there
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
