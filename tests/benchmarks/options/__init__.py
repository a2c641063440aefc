"""What training options do on the playground, each against a run without it."""
