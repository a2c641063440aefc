"""The one server route of the pack: GET /lora2/captions lists a folder's pictures and captions.

It writes nothing and reads only what LoRA² Dataset reads: a page that edits a caption sends it
through ComfyUI's own upload. ComfyUI refuses requests from other sites for all routes alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import folder_paths
from aiohttp import web
from server import PromptServer

from ...dataset.caption_table import caption_table
from ...dataset.folder import check_folder
from ...paths import quoted

PATH = "/lora2/captions"


def answer(query: Mapping[str, str]) -> dict:
    """Returns the rows that a request asks for: `folder` below the input folder, `first` and
    `count`. Raises ValueError for anything else.
    """
    folder = check_folder(folder_paths.get_input_directory(), query.get("folder", ""))
    return caption_table(folder, *(number(query, name) for name in ("first", "count")))


def number(query: Mapping[str, str], name: str) -> int:
    """Returns a number of a request. Raises ValueError unless it is written in plain digits."""
    text = query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{name} is {quoted(text)}: give a whole number.")
    return int(text)


async def captions(request: web.Request) -> web.Response:
    """Answers in JSON; a fault is one sentence with status 400."""
    try:
        # in a thread: a large folder takes a second, and the server goes on meanwhile
        return web.json_response(await asyncio.to_thread(answer, request.query))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)


def add_route() -> None:
    """Adds the route to ComfyUI's server, if there is one: tools import the nodes without it."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(PATH)(captions)
