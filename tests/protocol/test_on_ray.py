"""The sweep on Ray: a killed worker costs its own trial alone, and the rest goes on."""

import os
import subprocess
import sys

from tests.hosting.provision import cache_folder
from tests.hosting.server import REPOSITORY


def test_a_killed_worker_loses_no_finished_trial():
    """In a process of its own: Ray lies beside the shared environment."""
    folder = cache_folder() / "ray"
    assert folder.is_dir(), "run `nox -s tests`, which brings Ray"
    done = subprocess.run(
        [sys.executable, "-m", "tests.protocol.scale", "--short"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 of 8 trials are in the table, begun twice: only trial" in done.stdout
    assert "50 empty trials" in done.stdout
