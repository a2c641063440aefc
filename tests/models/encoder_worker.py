"""Tries text encoders by name, and prints a row of each as JSON."""

from __future__ import annotations

import json
import logging
import sys
import warnings


def main(arguments: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import torch

    from .encoders import ENCODERS, tried

    with torch.inference_mode():
        for name in arguments or ENCODERS:
            print(json.dumps(tried(name).facts()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
