"""Low-rank paths beside a model's frozen layers: which layers, their tensors, their start and end."""
