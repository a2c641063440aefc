"""`nox -s models`: which classes of the host can be trained, one row each.

`-- NAME…` for some classes, `-- --page` to write docs/models.md from what was found, `-- --real`
for the layers of models in their real sizes, `-- --encoders` for text encoders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from . import page

WORKER, ENCODERS = "tests.models.worker", "tests.models.encoder_worker"


def rows(names: list[str]) -> Iterator[dict]:
    """Yields the row of each class, tried in a process of its own kind: one that ends early is
    started again after the class that ended it.
    """
    left = list(names)
    while left:
        for row in answers(left):
            left.remove(row["name"])
            yield row
        if left:  # the process ended in the first of them
            name = left.pop(0)
            yield {"name": name, "verdict": "refused", "layers": 0, "idle": 0,
                   "why": "its process ended", "seconds": 0.0}  # fmt: skip


def answers(names: list[str], worker: str = WORKER) -> Iterator[dict]:
    """Yields what one process says of these classes, as far as it comes."""
    command = [sys.executable, "-m", "tests.hosting.inprocess", worker, *names]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
    )
    try:
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    finally:
        process.kill()
        process.wait()


def supported() -> list[str]:
    """Returns the names of all classes of the host."""
    command = [sys.executable, "-m", "tests.hosting.inprocess", WORKER, "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="classes; none for all")
    parser.add_argument("--page", action="store_true", help="write docs/models.md")
    parser.add_argument("--real", action="store_true", help="layers of models in their real sizes")
    parser.add_argument("--encoders", action="store_true", help="text encoders")
    arguments = parser.parse_args()
    if arguments.encoders:
        page.encoders(list(answers(arguments.names, ENCODERS)), write=arguments.page)
        return
    if arguments.real:
        command = [sys.executable, "-m", "tests.hosting.inprocess", "tests.models.real"]
        sys.exit(subprocess.run([*command, *arguments.names], check=False).returncode)
    known, found, every = page.known(), [], supported()
    print(page.HEAD)
    for row in rows(arguments.names or every):
        found.append(row)
        print(page.line(row), flush=True)
    if arguments.page:
        page.write(found, every)
    if new := known and [row["name"] for row in found if row["name"] not in known]:
        print(f"new: {', '.join(new)}")
    print(page.total(found))


if __name__ == "__main__":
    main()
