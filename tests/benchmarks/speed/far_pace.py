"""A trainer made to do one step at a time, in a process of its own."""

from __future__ import annotations

import json
import subprocess

from tests.benchmarks.speed.probe import MARK, command
from tests.hosting.inprocess import REPOSITORY


class FarPace:
    """What Pace is, elsewhere: no other trainer shares its memory, as it is for users."""

    def __init__(self, name: str, variant: str, steps: int):
        self.seconds: list[float] = []
        self.reviews: list[float] = []
        self.process = subprocess.Popen(
            command("pace", name, variant, str(steps)),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def advance(self) -> None:
        """One step; RuntimeError with what it died of."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                told = json.loads(line.removeprefix(MARK))
                if "error" in told:
                    raise RuntimeError(told["error"])
                self.seconds, self.reviews = told["seconds"], told["reviews"]
                return
        raise RuntimeError(f"ended with code {self.process.wait()}")

    def leave(self) -> None:
        """The trainer tidies up and its process ends."""
        self.process.communicate()
