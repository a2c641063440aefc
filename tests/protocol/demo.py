"""`nox -s protocol`: the protocol on the playground, as a user starts it; goes on where it stopped.

nox -s protocol -- --subjects owl,fox --seeds 0,1
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.hosting.provision import cache_folder
from tests.hosting.server import REPOSITORY
from tests.protocol.data import write_data
from tests.protocol.encoders import toy_encoders

OUTPUT = REPOSITORY / "tests" / "protocol" / "results"


def main() -> None:
    clip, dino = toy_encoders(cache_folder() / "toy")
    data = write_data(cache_folder() / "toy" / "dreambooth")
    command = [
        sys.executable, "-m", "lora2_core.protocol", "--plan", "playground", "--data", str(data),
        "--out", str(OUTPUT), "--clip-folder", str(clip), "--dino-folder", str(dino),
        "--base-directory", str(OUTPUT / "base"), *sys.argv[1:],
    ]  # fmt: skip
    sys.exit(subprocess.run(command, cwd=REPOSITORY, env=os.environ).returncode)


if __name__ == "__main__":
    main()
