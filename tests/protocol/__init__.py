"""The protocol on the playground: its data, its encoders, and what its parts promise."""
