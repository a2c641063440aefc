"""A finished LoRA of any trainer: its layers, their names, its size, and how it is cut."""
