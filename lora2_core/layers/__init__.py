"""Low-rank paths beside a model's frozen layers: which ones, their tensors, start and end."""
