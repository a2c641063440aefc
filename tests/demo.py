"""`nox -s demo`: a real ComfyUI trains an adapter, shows the ranks it learned, and draws with it.

Nothing is downloaded: the model and the pictures are the pack's own. With a checkpoint of yours:

    nox -s demo -- --checkpoint sdxl.safetensors --images folder --prompt "a photo of sks dog"
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from tests import graphs
from tests.demo_report import Progress, rank_table, side_by_side
from tests.hosting.server import REPOSITORY, ComfyServer, ExecutionError

OUTPUT = REPOSITORY / "demo-output"
PLAYGROUND_TIME = "about a minute on two CPU cores"
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
FOLDER = "demo"


def main() -> None:
    """Starts the server, runs the quick-start graph, and says where the results are."""
    options = parse()
    source, settings = plan(options)
    if options.steps:
        settings["steps"] = options.steps
    print(f"This takes {PLAYGROUND_TIME}." if source.folder is None else "This may take long.")
    print("Starting ComfyUI…", flush=True)
    start = time.monotonic()
    with ComfyServer() as server:
        if source.folder is not None:
            bring(options, server.base)
        progress = Progress(settings["steps"])
        try:
            entry = server.run(graphs.quick_start(source, **settings), progress)
        except (ExecutionError, ValueError) as error:
            sys.exit(f"\n{error}")
        finally:
            progress.close()
        report(server, entry, time.monotonic() - start)


def parse() -> argparse.Namespace:
    """The command line; a checkpoint and pictures come together."""
    parser = argparse.ArgumentParser(
        prog="nox -s demo --", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="your own checkpoint")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures, .txt captions")
    parser.add_argument("--prompt", help="what the samples show; the caption where there is none")
    parser.add_argument("--steps", type=int, help="training steps (400; own checkpoint: 500)")
    parser.add_argument("--size", type=int, default=512, help="own checkpoint: pixels (512)")
    options = parser.parse_args()
    if (options.checkpoint is None) != (options.images is None):
        parser.error("--checkpoint and --images go together")
    if options.checkpoint and not options.checkpoint.is_file():
        parser.error(f"no such file: {options.checkpoint}")
    if options.images and not find_pictures(options.images):
        parser.error(f"no pictures ({', '.join(sorted(PICTURES))}) in {options.images}")
    if options.images and not options.prompt:
        parser.error("--prompt is needed with --images: it says what the samples show")
    return options


def plan(options: argparse.Namespace) -> tuple[graphs.Source, dict]:
    """What to train on, and the settings that suit its size."""
    if options.checkpoint is None:
        source = graphs.playground()
        return source, {"steps": 400}
    source = graphs.own(options.checkpoint.name, FOLDER, options.prompt, options.size)
    return source, {
        "steps": 500,
        "batch_size": 1,
        "learning_rate": 1e-4,
        "target_rank": 16,
        "max_rank": 64,
        "name": "own",
    }


def find_pictures(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)


def bring(options: argparse.Namespace, base: Path) -> None:
    """Links the checkpoint and copies the pictures, each with a caption, into the server's base."""
    target = base / "models/checkpoints" / options.checkpoint.name
    try:
        target.symlink_to(options.checkpoint.resolve())
    except OSError:  # a system that refuses links
        shutil.copyfile(options.checkpoint, target)
    folder = base / "input" / FOLDER
    folder.mkdir()
    for picture in find_pictures(options.images):
        shutil.copy(picture, folder)
        caption = picture.with_suffix(".txt")
        text = caption.read_text(encoding="utf-8") if caption.is_file() else options.prompt
        (folder / caption.name).write_text(text, encoding="utf-8")


def report(server: ComfyServer, entry: dict, seconds: float) -> None:
    """Copies the results out of the server's temporary folder, and prints ranks and paths."""
    from lora2_core import load
    from lora2_core.adapter.rank_map import rank_map

    OUTPUT.mkdir(exist_ok=True)
    saved = (server.base / "models/loras").rglob("*.safetensors")
    newest = max(saved, key=lambda path: path.stat().st_mtime)
    adapter, heatmap = OUTPUT / newest.name, OUTPUT / "heatmap.png"
    samples = OUTPUT / "before-after.png"
    shutil.copyfile(newest, adapter)
    shutil.copyfile(server.files(entry, graphs.HEATMAP)[0], heatmap)
    before, after = (server.files(entry, node) for node in (graphs.BEFORE, graphs.AFTER))
    side_by_side(before, after, samples)
    print(f"\n{rank_table(rank_map(load(adapter)))}\n")
    print(f"adapter   {adapter}   {adapter.stat().st_size / 1e6:.2f} MB")
    print(f"heatmap   {heatmap}")
    print(f"samples   {samples}   above without the adapter, below with it")
    print(f"Done in {seconds:.0f} s.")


if __name__ == "__main__":
    main()
