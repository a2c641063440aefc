"""The training loop and what it is made of: optimizer, schedule, loss, rank auction, state."""
