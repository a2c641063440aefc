"""A training run on a model of ComfyUI: from checked inputs to a finished adapter."""
