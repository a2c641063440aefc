"""A finished LoRA, whoever made it: its layers, names, sizes and cuts."""
