"""Data sets: folders of pictures, encoded by ComfyUI's VAE and CLIP."""
