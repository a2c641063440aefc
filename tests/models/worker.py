"""Tries classes by name, and prints a row of each as JSON; `--list` prints all names."""

from __future__ import annotations

import json
import logging
import sys
import warnings

from .build import names


def main(arguments: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if arguments == ["--list"]:
        print(json.dumps(names()))
        return
    from .trial import tried

    for name in arguments:
        print(json.dumps(tried(name).facts()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
