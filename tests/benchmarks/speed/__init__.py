"""What a training step costs in time and memory, against the limit and against other trainers."""
