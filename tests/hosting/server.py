"""The real ComfyUI server as a subprocess, with this pack in its custom_nodes folder.

    with ComfyServer() as server:
        entry = server.run(prompt, on_event=print)
        server.files(entry, "heatmap")

Prompts are in the API format: {node id: {"class_type": ..., "inputs": {...}}}.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.hosting.process import (
    device_arguments,
    exit_on_sigterm,
    free_port,
    link_pack,
    stop_group,
)

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "comfyui-lora2"
FOLDERS = ("custom_nodes", "input", "output", "models/checkpoints", "models/loras")
# A proxy set for the outside world must not get the requests to this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ExecutionError(RuntimeError):
    """A prompt failed; the message names the node and repeats what it said."""


class ComfyServer:
    """Starts on `with`, always stopped at its end.

    Args:
        base: the folder for models, inputs and outputs; temporary unless given.
        host: the ComfyUI checkout; LORA2_HOST unless given.
        pack: the repository whose nodes are loaded; None for the host's own nodes alone.
        port: a free one unless given.
        arguments: more flags for the host's main.py.
        timeout: seconds to wait for the server to answer.
    """

    def __init__(
        self,
        base: Path | None = None,
        *,
        host: Path | None = None,
        pack: Path | None = REPOSITORY,
        port: int | None = None,
        arguments: Sequence[str] = (),
        timeout: float = 180,
    ):
        self._temporary = base is None
        self.base = Path(tempfile.mkdtemp(prefix="lora2-")) if base is None else base.resolve()
        self.host, self.pack = host or host_folder(), pack
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self._arguments, self._timeout = list(arguments), timeout
        self._client = uuid.uuid4().hex
        self._process: subprocess.Popen | None = None
        self._socket: Any = None
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ComfyServer:
        exit_on_sigterm()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            stop_group(self._process)
        if self._temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def _start(self) -> None:
        if self.pack is not None:
            link_pack(self.pack, self.base / "custom_nodes" / NAME)
        command = [
            sys.executable, str(self.host / "main.py"), "--listen", "127.0.0.1",
            "--port", str(self.port), "--base-directory", str(self.base),
            "--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes",
            "--disable-all-custom-nodes", "--whitelist-custom-nodes", NAME,
            *device_arguments(), *self._arguments,
        ]  # fmt: skip
        with open(self.log, "w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that all of it can be stopped
            )
        deadline = time.monotonic() + self._timeout
        while True:
            with contextlib.suppress(OSError):
                self._ask("/system_stats")
                break
            if not self.running():
                raise RuntimeError(f"The server ended while it started:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"No answer in {self._timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.2)
        self._check_imports()

    def _check_imports(self) -> None:
        """The host goes on without a pack that failed to import: here that is an error."""
        text = self.log.read_text(errors="replace")
        if "(IMPORT FAILED)" in text:
            start = max(text.rfind("Traceback"), text.rfind("Error while calling"), 0)
            raise RuntimeError(f"The host could not import the pack:\n{text[start:][:4000]}")

    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def tail(self, lines: int = 40) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _ask(self, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}
        )
        with OPENER.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self) -> dict[str, dict]:
        """Every node that the server knows, by id."""
        return self._ask("/object_info")

    def submit(self, prompt: dict[str, dict]) -> str:
        """Queues an API-format prompt and returns its id.

        Raises:
            ValueError: the host's validation refused it; the message says which node and why.
        """
        if self._socket is None:  # before the prompt, so that no event is missed
            import websocket

            url = f"ws://127.0.0.1:{self.port}/ws?clientId={self._client}"
            self._socket = websocket.create_connection(url, timeout=2)
        try:
            answer = self._ask("/prompt", {"prompt": prompt, "client_id": self._client})
        except urllib.error.HTTPError as error:
            raise ValueError(refusal(json.loads(error.read()))) from None
        return answer["prompt_id"]

    def left_out(self, prompt: dict[str, dict]) -> str:
        """Returns what the host says of the outputs that it leaves out of a prompt, whose others it
        takes; the prompt is taken back.
        """
        answer = self._ask("/prompt", {"prompt": prompt, "client_id": self._client})
        self._ask("/queue", {"delete": [answer["prompt_id"]]})
        self.interrupt()
        return refusal({"error": {"message": "in part"}, **answer})

    def events(self, prompt_id: str) -> Iterator[dict]:
        """The websocket's messages ({"type", "data"}) until the prompt is done, however it ends."""
        import websocket

        while True:
            try:
                text = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                if not self.running():
                    raise RuntimeError(f"The server ended during a run:\n{self.tail()}") from None
                if self.history(prompt_id):
                    return
                continue
            if not isinstance(text, str):  # a preview picture
                continue
            message = json.loads(text)
            data = message.get("data") or {}
            if data.get("prompt_id", prompt_id) != prompt_id:
                continue
            yield message
            if message["type"] == "executing" and data.get("node") is None:
                return

    def history(self, prompt_id: str) -> dict:
        """The finished prompt's entry (outputs, status); empty while it runs or waits."""
        return self._ask(f"/history/{prompt_id}").get(prompt_id, {})

    def interrupt(self) -> None:
        """Stops the prompt that is running, as the front end's button does."""
        self._ask("/interrupt", {})

    def run(self, prompt: dict[str, dict], on_event: Callable[[dict], None] | None = None) -> dict:
        """Submits, waits, and returns the history entry.

        Raises:
            ExecutionError: a node failed or the run was interrupted.
        """
        prompt_id = self.submit(prompt)
        for event in self.events(prompt_id):
            if on_event is not None:
                on_event(event)
        entry = self.history(prompt_id)
        if entry["status"]["status_str"] != "success":
            raise ExecutionError(failure(entry))
        return entry

    def files(self, entry: dict, node: str) -> list[Path]:
        """The pictures that a node of a finished prompt wrote."""
        images = entry["outputs"].get(node, {}).get("images", [])
        return [self.base / i["type"] / i["subfolder"] / i["filename"] for i in images]


def host_folder() -> Path:
    """The checkout that the nox session chose."""
    if not (host := os.environ.get("LORA2_HOST")):
        raise SystemExit("LORA2_HOST is not set: start this through nox (python -m nox --list).")
    return Path(host)


def refusal(answer: dict) -> str:
    """One line a fault from the host's answer to a prompt that it did not accept."""
    lines = [f"The host refused the prompt: {answer['error']['message']}"]
    for node, faults in answer.get("node_errors", {}).items():
        for fault in faults["errors"]:
            lines.append(f"{faults['class_type']} ({node}): {fault['message']}: {fault['details']}")
    return "\n".join(lines)


def failure(entry: dict) -> str:
    """What a failed prompt's history says about it."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']} ({data['node_id']}): {data['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return f"interrupted in {data['node_type']} ({data['node_id']})"
    return "the run failed without a message"
