"""Bringing an adapter onto a model: against the stock loader, and moving `keep` on a large one."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from lora2_core import LoraLayer, RankedLora, load, save
from lora2_core.adapter.origin import BaseModel, Origin
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.naming import diffusers_paths
from lora2_core.host.training.examples import collate
from tests.benchmarks.speed.models import SPECS, build, layers_of, pictures
from tests.benchmarks.speed.peak import Peak
from tests.benchmarks.speed.probe import alone
from tests.benchmarks.speed.store import Store
from tests.host.examples import examples_of

WAYS = ("ours", "stock")
MEGABYTES = 400
KEEP = 0.5


def random_adapter(model: ModelPatcher, targets: str, rank: int) -> RankedLora:
    """Singular values that fall differently in every layer, as in a trained adapter."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for path in layers_of(model, targets):
        module = model.model.get_submodule(path)
        up = torch.randn(module.out_features, rank, generator=generator)
        fall = 0.90 + 0.09 * torch.rand((), generator=generator)
        up *= 1e-3 * fall ** torch.arange(rank)
        layers[path] = LoraLayer(up, torch.randn(rank, module.in_features, generator=generator))
    return RankedLora(
        layers, Origin(base=BaseModel(diffusers=diffusers_paths(model))), singular=True
    )


@torch.inference_mode()
def first_forward(name: str, way: str, path: Path) -> dict:
    """What a loader node and the first sampling step after it do, in this process."""
    model = build(name)
    items = examples_of(model, model.model, *pictures(name))
    latents, conditions = collate(items[:1])
    sigma = torch.ones(1, device=latents.device)

    def forward(patcher: ModelPatcher) -> None:
        comfy.model_management.load_models_gpu([patcher])
        float(patcher.model.apply_model(latents, sigma, **conditions).sum())

    forward(model)
    peak, begun = Peak(), time.perf_counter()
    if way == "ours":
        patched, _ = apply_lora(model, None, adopt(load(path), model), 1.0, 1.0)
    else:
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
        del tensors
    applied = time.perf_counter()
    forward(patched)
    end = time.perf_counter()
    return {"seconds": end - begun, "applied": applied - begun, "peak": peak.above()}


@torch.inference_mode()
def move_keep(name: str, megabytes: float, repeats: int) -> dict:
    """Seconds of truncating a loaded adapter of so many MB and applying it, as LoRA² Apply does."""
    model = build(name, "meta")
    targets = SPECS[name].targets
    modules = [model.model.get_submodule(path) for path in layers_of(model, targets)]
    cost = sum(m.in_features + m.out_features for m in modules)
    rank = max(1, round(megabytes * 1e6 / 2 / cost))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        lora = random_adapter(model, targets, rank)
        save(path, lora, diffusers=lora.origin.base.diffusers)
        size = path.stat().st_size / 1e6
        lora = adopt(load(path), model)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        apply_lora(model, None, lora.truncated(KEEP), 1.0, 1.0)
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds, "megabytes": size, "rank": rank}


def compare_loaders(store: Store, name: str, repeats: int) -> None:
    """Both loaders in turn on one file of rank 64, each in a fresh process."""
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path, model = Path(folder) / "adapter.safetensors", build(name)
        lora = random_adapter(model, SPECS[name].targets, 64)
        save(path, lora, diffusers=lora.origin.base.diffusers)
        del model
        for _ in range(repeats):
            for way in WAYS:
                found[way].append(alone("load", name, way, str(path)))
    for way, rows in found.items():
        errors = [{"error": row["error"]} for row in rows if "error" in row]
        keys = ("seconds", "applied", "peak")
        columns = errors[0] if errors else {k: [row[k] for row in rows] for k in keys}
        store.keep("loading", name, way, columns)


def run(store: Store, repeats: int, *, quick: bool) -> None:
    """The loaders on a small model, `keep` on the shapes of a large one."""
    name, large, megabytes = "small", "sdxl", float(MEGABYTES)
    if quick:
        name, large, megabytes = "playground", "playground", 1.0
    times = max(1, repeats // 3)
    if not set(WAYS) <= set(store.rows("loading", name)):
        print("loading: ours against the stock loader", flush=True)
        compare_loaders(store, name, times)
    if "keep" not in store.rows("loading", large):
        print("loading: moving keep", flush=True)
        store.keep("loading", large, "keep", move_keep(large, megabytes, times))
