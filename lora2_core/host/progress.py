"""Shows how far work on layers is, in the host's progress bar, and ends it when a user says so."""

from __future__ import annotations

import comfy.model_management
import comfy.utils


class LayerProgress:
    """Is called before each layer; raises the host's own exception after an interrupt."""

    def __init__(self) -> None:
        self.bar = None

    def __call__(self, done: int, layers: int) -> None:
        """Shows that so many of the layers are done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.bar is None:
            self.bar = comfy.utils.ProgressBar(layers)
        self.bar.update_absolute(done, layers)
