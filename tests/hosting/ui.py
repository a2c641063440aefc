"""Runs the front end with this pack until Ctrl-C: `nox -s ui`, more host flags after `--`.

The base folder is kept in the cache, so workflows, models and outputs are still there next time.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

from tests.hosting.provision import cache_folder
from tests.hosting.server import ComfyServer

USUAL_PORT = 8188


def port() -> int | None:
    """ComfyUI's usual port where it is free; None lets the server pick another."""
    with socket.socket() as probe:
        return None if probe.connect_ex(("127.0.0.1", USUAL_PORT)) == 0 else USUAL_PORT


def main() -> None:
    """Starts the server, says where it is, waits."""
    print("Starting ComfyUI…", flush=True)
    with ComfyServer(cache_folder() / "ui", port=port(), arguments=sys.argv[1:]) as server:
        print(f"Open {server.address}\nFiles: {server.base}\nLog: {server.log}\nCtrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            while server.running():
                time.sleep(1)
    print("Stopped.")


if __name__ == "__main__":
    main()
