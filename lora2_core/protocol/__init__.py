"""The papers' evaluation as a program, in a ComfyUI without a window. For every subject, method and
seed it trains an adapter, draws pictures with it and scores them; see
`python -m lora2_core.protocol --help`.
"""
