"""Tests here import comfy at the top of their files, which without a host is a confusing error."""

import os

import pytest

if not os.environ.get("LORA2_HOST"):
    raise pytest.UsageError(
        "tests/host needs the host: run `python -m nox -s tests`, or set LORA2_HOST to a ComfyUI "
        "folder."
    )
