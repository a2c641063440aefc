"""LoRA² for ComfyUI: LoRA adapters whose rank is learned layer by layer.

The host is imported only when it asks for the nodes, so tests and tools can import this package
without it.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Returns the extension that lists the nodes; the host calls this V3 entry."""
    from .nodes import LoRA2Extension

    return LoRA2Extension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
