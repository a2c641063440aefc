"""LoRA² Train with nothing behind it trains and keeps its adapter; with something, as ever."""

import pytest

from lora2_core import load
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer


def training(*names: str, **inputs) -> Graph:
    """The quick start's training and these of its other nodes."""
    graph = quick_start(steps=4, batch_size=2, target_rank=4, max_rank=8, name="alone")
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, *names)}
    graph[TRAIN]["inputs"] |= inputs
    return graph


def trained(server: ComfyServer) -> set[str]:
    folder = server.base / "models" / "loras"
    return {p.relative_to(folder).as_posix() for p in folder.rglob("lora2/trained_*")}


def shown(entry: dict) -> dict:
    (event,) = entry["outputs"][TRAIN]["lora2.train"]
    return event


def test_alone_it_trains_and_keeps_its_adapter(server: ComfyServer):
    before = trained(server)
    event = shown(server.run(training(seed=11)))
    (kept,) = trained(server) - before
    assert event["kept"] == kept and event["step"] == 4
    assert "No other node takes the adapter" in event["notes"][0]
    assert len(load(server.base / "models" / "loras" / kept).ranks) == 107
    again = shown(server.run(training(seed=11)))  # from the cache: not trained or kept again
    assert again == event and trained(server) == before | {kept}


def test_a_save_that_the_host_drops(server: ComfyServer):
    before, graph = trained(server), training(SAVE, seed=12)
    graph[SAVE]["inputs"]["filename_prefix"] = "../../outside"
    event = shown(server.run(graph))
    assert trained(server) == before | {event["kept"]}


@pytest.mark.parametrize("names", [(SAVE,), ("heatmap", "heatmap picture")])
def test_with_something_behind_it_nothing_more_is_kept(server: ComfyServer, names):
    before = trained(server)
    event = shown(server.run(training(*names, seed=13 + len(names))))
    assert event["kept"] is None and event["notes"] == []
    assert trained(server) == before


def test_a_save_that_comes_later_takes_the_cached_adapter(server: ComfyServer):
    event = shown(server.run(training(seed=16)))
    entry = server.run(training(SAVE, seed=16))
    folder = server.base / "models" / "loras"
    name = entry["outputs"][SAVE]["text"][0].split(" (")[0]
    one, other = (load(folder / n).origin.file.metadata for n in (name, event["kept"]))
    assert one["sshs_model_hash"] == other["sshs_model_hash"]


def test_a_finished_run_that_is_resumed_gives_its_adapter(server: ComfyServer):
    graph = training(SAVE, options=["keep", 0], seed=17)
    inputs = {"every": 2, "keep_last": 2, "name": "finished", "resume": "latest of this name"}
    graph["keep"] = {"class_type": "LoRA2CheckpointOptions", "inputs": inputs}
    names = [server.run(graph)["outputs"][SAVE]["text"][0].split(" (")[0]]
    inputs["keep_last"] = 3  # so that nothing comes from the cache
    entry = server.run(graph)
    names.append(entry["outputs"][SAVE]["text"][0].split(" (")[0])
    event = shown(entry)
    assert event["step"] == event["steps"] == 4 and event["ended"] is None
    assert "had ended before and had no step left" in event["notes"][-1]
    folder = server.base / "models" / "loras"
    one, other = (load(folder / name) for name in names)
    hashes = [each.origin.file.metadata["sshs_model_hash"] for each in (one, other)]
    assert hashes[0] == hashes[1]
