"""The classes of the host are looked up when tests are collected, which needs the host."""

import os

import pytest

if not os.environ.get("LORA2_HOST"):
    raise pytest.UsageError(
        "tests/models needs the host: run `python -m nox -s tests`, or set LORA2_HOST to a ComfyUI "
        "folder."
    )
