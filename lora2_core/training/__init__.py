"""The training loop and its parts: optimizers, schedules, loss, rank auction, saved state."""
