"""The list of captions through the server: of the input folder only, quick, for this site only."""

import http.client
import json
import time
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from PIL import Image

from tests.hosting.server import ComfyServer
from tests.reliability.hostile import PARTS, STARTS

MANY = 1000  # pictures
QUICK = 2.0  # seconds, of a slow machine that does other things too


@pytest.fixture(scope="module")
def folder(server: ComfyServer) -> Path:
    folder = server.base / "input" / "captioned" / "3_a b"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "owl ü.png")
    (folder / "owl ü.txt").write_text("an owl", encoding="utf-8")
    (server.base / "secret").mkdir()
    Image.new("RGB", (32, 32)).save(server.base / "secret" / "secret.png")
    return folder.parent


def ask(server: ComfyServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Returns status and body of an answer, whatever the status."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def listed(server: ComfyServer, folder: object, first: object = 0, count: object = 25) -> tuple:
    query = urlencode({"folder": folder, "first": first, "count": count}, errors="surrogatepass")
    status, body = ask(server, f"/lora2/captions?{query}")
    return status, json.loads(body)


def test_a_folder_is_listed_and_what_training_uses_is_shown(server: ComfyServer, folder: Path):
    status, found = listed(server, "captioned")
    assert status == 200 and found["pictures"] == 1
    assert found["rows"] == [
        {
            "name": "3_a b/owl ü.png", "folders": "3_a b", "file": "owl ü.png", "caption": "an owl",
            "caption_file": "owl ü.txt", "folder_caption": "a b", "text_file": "owl ü.txt",
            "shared": [], "locked": "",
        }
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", ".", "../secret", "captioned/../../secret", "gone", "a\0b"])
def test_hostile_folders_are_refused_in_one_sentence(server: ComfyServer, folder: Path, name: str):
    status, found = listed(server, name)
    assert status == 400 and list(found) == ["error"] and found["error"].endswith(".")


def test_no_name_reaches_a_folder_outside(server: ComfyServer, folder: Path):
    """Every start and every part of the hostile names, also absolute."""
    names = [start + part for start in STARTS for part in [*PARTS, "secret", "captioned/../secret"]]
    for name in [*names, str(server.base / "secret"), str(server.base)]:
        status, found = listed(server, name)
        assert status == 400 and "secret.png" not in json.dumps(found), name


@pytest.mark.parametrize(
    ("first", "count"), [("-1", 1), (0, 0), (0, 101), ("", 1), ("1e3", 1), (0, "٣"), ("9" * 40, 1)]
)
def test_numbers_are_checked(server: ComfyServer, folder: Path, first: object, count: object):
    status, found = listed(server, "captioned", first, count)
    assert status == 400 and ("first is" in found["error"] or "count is" in found["error"])


def test_other_sites_and_other_methods_are_refused(server: ComfyServer, folder: Path):
    path = f"/lora2/captions?folder=captioned&first=0&count={quote('1')}"
    for start in ("", "/api"):
        assert ask(server, start + path)[0] == 200
        assert ask(server, start + path, Origin="http://evil.example")[0] == 403
        assert ask(server, start + path, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert ask(server, start + path, method)[0] == 405
    assert (folder / "3_a b" / "owl ü.txt").read_text(encoding="utf-8") == "an owl"


def test_a_thousand_pictures_are_listed_quickly(server: ComfyServer):
    folder = server.base / "input" / "many"
    folder.mkdir()
    for i in range(MANY):
        (folder / f"{i:04}.png").write_bytes(b"a picture is not opened for its row")
        (folder / f"{i:04}.txt").write_text(f"picture {i}, " * 40)
    start = time.perf_counter()
    status, found = listed(server, "many", MANY - 25)
    took = time.perf_counter() - start
    assert status == 200 and found["pictures"] == MANY
    assert found["rows"][-1]["caption"].startswith("picture 999") and took < QUICK
    print(f"{MANY} pictures: {took:.3f} s")
