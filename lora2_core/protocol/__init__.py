"""The papers' evaluation as a program: subjects x methods x seeds, each trained, drawn with and
scored in a ComfyUI without a window; `python -m lora2_core.protocol --help`.
"""
