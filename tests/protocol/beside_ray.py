"""Ray lies beside the shared environment, so what needs it runs in a process of its own."""

import os
import subprocess
import sys

from tests.hosting.provision import cache_folder
from tests.hosting.server import REPOSITORY


def printed(module: str, *arguments: str, package: str, seconds: int) -> str:
    """What a module of ours prints; `package`: one that it needs of the folder with Ray."""
    folder = cache_folder() / "ray"
    assert (folder / package).is_dir(), "run `nox -s tests`, which brings Ray"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
