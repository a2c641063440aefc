"""Adapter files: reads and checks any trainer's, and writes and seals those of LoRA²."""
