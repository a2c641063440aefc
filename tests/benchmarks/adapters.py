"""What handling files costs and how far it is from the best possible, at the size of SDXL:
`nox -s bench-files`, `-- merge`, `-- extract`, `-- speed`, `-- load`, `-- kinds`, `-- eight`
for one of them.

Each figure is taken in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lora2_core.adapter.compress import compress
from lora2_core.adapter.lora import LoraLayer, RankedLora
from lora2_core.adapter.merging import MergeSettings, Source, merge
from lora2_core.adapter.other_kinds import OtherChange
from tests.benchmarks import eight_bits

SDXL = {
    "image_size": 32, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "num_classes": "sequential", "adm_in_channels": 2816, "in_channels": 4, "model_channels": 320,
    "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "channel_mult": [1, 2, 4], "transformer_depth_middle": 10, "use_linear_in_transformer": True,
    "context_dim": 2048, "num_head_channels": 64,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}  # fmt: skip
MODULE = (sys.executable, "-m", "tests.hosting.inprocess", "tests.benchmarks.adapters")
FIGURES = ("merge", "extract", "speed", "load", "kinds", "eight")
MERGED, RANK, BUDGET = 4, 64, 100.0  # LoRAs, their rank, MB of the result
SAMPLED = 12  # layers of an extraction that are compared with an exact decomposition


def shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of every weight of SDXL's UNet, from the host's own class."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    model = UNetModel(**SDXL, device="meta", operations=comfy.ops.disable_weight_init)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def targets() -> dict[str, tuple[int, int]]:
    """The 722 layers that trainers of kohya adapt: rows and columns."""
    found = {}
    for key, shape in shapes().items():
        inside = ".1." in key.replace("_block.1", ".1") and "emb" not in key
        if key.endswith(".weight") and len(shape) == 2 and inside:
            found["diffusion_model." + key.removesuffix(".weight")] = shape
    return found


def drawn(rank: int, seed: int) -> RankedLora:
    """An adapter of these layers, whose singular values fall as those of trained ones do."""
    g = torch.Generator().manual_seed(seed)
    fall = torch.arange(1, rank + 1).float() ** -0.5
    layers = {}
    for name, (rows, columns) in targets().items():
        size = 0.2 + torch.rand(1, generator=g)
        up = torch.randn(rows, rank, generator=g) * fall * size
        layers[name] = LoraLayer(up, torch.randn(rank, columns, generator=g))
    return RankedLora(layers)


def least_error(values: list[Tensor], costs: list[int], parameters: float) -> float:
    """The error of the best allocation: exact singular values, one auction."""
    worth = torch.cat([v.square() / c for v, c in zip(values, costs, strict=True)])
    energy = torch.cat([v.square() for v in values])
    cost = torch.cat([torch.full_like(v, c) for v, c in zip(values, costs, strict=True)])
    order = worth.argsort(descending=True)
    kept = cost[order].cumsum(0) <= parameters
    return math.sqrt(float(energy[order][~kept].sum() / energy.sum()))


def exact_values(parts: list[LoraLayer]) -> Tensor:
    """The singular values of a sum of pairs, by QR decompositions in fp64."""
    up = torch.cat([p.up.double() for p in parts], 1)
    down = torch.cat([p.down.double() for p in parts])
    core = torch.linalg.qr(up)[1] @ torch.linalg.qr(down.T)[1].T
    return torch.linalg.svdvals(core)


def distance(whole: list[LoraLayer], cut: LoraLayer) -> float:
    """|sum of pairs - pair|^2, through small matrices."""
    up = torch.cat([*(p.up.double() for p in whole), -cut.up.double()], 1)
    down = torch.cat([*(p.down.double() for p in whole), cut.down.double()])
    return float(((up.T @ up) * (down @ down.T)).sum())


def merging() -> dict:
    """Four LoRAs to 100 MB."""
    loras = [drawn(RANK, seed) for seed in range(MERGED)]
    sources = [Source(f"lora_{n}", lora) for n, lora in enumerate(loras, 1)]
    before, clock = peak(), Clock()
    out = merge(sources, MergeSettings(budget_mb=BUDGET))
    seconds, memory = clock.told(), peak()
    values, lost, total = [], 0.0, 0.0
    for name, layer in out.lora.layers.items():
        parts = [lora.layers[name] for lora in loras]
        values.append(exact_values(parts))
        lost, total = lost + distance(parts, layer), total + float(values[-1].square().sum())
    costs = [layer.cost for layer in out.lora.layers.values()]
    return {
        "layers": len(values), "MB": out.lora.megabytes(), **seconds, "error": out.error,
        "measured error": math.sqrt(lost / total),
        "best possible": least_error(values, costs, BUDGET * 1e6 / 2),
        "peak MB": memory, "of it the four LoRAs": before,
    }  # fmt: skip


def written(folder: Path) -> None:
    """Two models of SDXL's size in fp16, a tensor at a time: the second one is the first one with
    a falling change of rank 48 and some noise in every matrix.
    """
    entries, at = {}, 0
    for key, shape in shapes().items():
        size = 2 * math.prod(shape)
        entries[f"model.diffusion_model.{key}"] = {
            "dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size],
        }  # fmt: skip
        at += size
    head = json.dumps(entries).encode()
    g = torch.Generator().manual_seed(0)
    with (
        open(folder / "base.safetensors", "wb") as base,
        open(folder / "tuned.safetensors", "wb") as tuned,
    ):
        for file in (base, tuned):
            file.write(len(head).to_bytes(8, "little") + head)
        for entry in entries.values():
            for file, values in zip((base, tuned), two(entry["shape"], g), strict=True):
                file.write(values.half().numpy().tobytes())


def two(shape: list[int], g: torch.Generator) -> Iterator[Tensor]:
    """A weight before and after a tuning."""
    weight = torch.randn(shape, generator=g) * 0.03
    yield weight
    if len(shape) > 1:
        columns = math.prod(shape[1:])
        up = torch.randn(shape[0], 48, generator=g) * torch.arange(1, 49).float() ** -0.8
        change = up @ torch.randn(48, columns, generator=g) * 4e-3 / math.sqrt(columns)
        weight = weight + change.reshape(shape)
        weight += 1e-5 * torch.randn(shape, generator=g)
    yield weight


def extracting() -> dict:
    """Two files of SDXL's size to 100 MB, in the host's node."""
    import asyncio

    import comfyui_lora2
    import folder_paths

    extension = asyncio.run(comfyui_lora2.comfy_entrypoint())
    nodes = {n.GET_SCHEMA().node_id: n for n in asyncio.run(extension.get_node_list())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*MODULE, "write", name], check=True)  # its memory does not count
        folder_paths.get_folder_paths = lambda kind: [name]
        before, clock = peak(), Clock()
        out = nodes["LoRA2Extract"].execute(
            model_file="checkpoints/tuned.safetensors", base_file="checkpoints/base.safetensors",
            budget_mb=BUDGET,
        )  # fmt: skip
        seconds, memory = clock.told(), peak()
        lora, worst = out.result[0], 0.0
        from lora2_core.files.model_file import ModelFile

        with (
            ModelFile(folder / "tuned.safetensors") as tuned,
            ModelFile(folder / "base.safetensors") as base,
        ):
            for layer in list(lora.layers)[:: max(1, len(lora.layers) // SAMPLED)]:
                key = f"model.{layer}.weight"
                change = (tuned.weight(key).float() - base.weight(key).float()).flatten(1)
                exact = torch.linalg.svdvals(change).double().square()
                rank = lora.layers[layer].rank
                pair = lora.layers[layer]
                lost = float((change - pair.up @ pair.down).double().square().sum())
                worst = max(worst, math.sqrt(lost / max(1e-30, float(exact[rank:].sum()))) - 1)
    said = lora.origin.run.settings["extracted"]
    return {
        "layers": len(lora.layers), "MB": lora.megabytes(), **seconds,
        "error": said["error"], "above the best of its rank, worst layer": worst,
        "peak MB": memory, "of it before": before,
    }  # fmt: skip


def speeds() -> dict:
    """Compress of 722 pairs."""
    found = {}
    for rank in (64, 128):
        lora = drawn(rank, 0)
        clock = Clock()
        compress(lora, tolerance=0.3)
        found |= {f"{what} at rank {rank}": value for what, value in clock.told().items()}
    return found | {"layers": len(lora.layers), "peak MB": peak()}


def loading() -> dict:
    """Reading and applying a file of 722 pairs: to SDXL's own class, whose weights stay unmade."""
    import comfy.model_base
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    from lora2_core import load, save
    from lora2_core.host.applied import apply_structured
    from lora2_core.host.apply import adopt, cut_for, resolve

    config = comfy.supported_models.SDXL(dict(SDXL))
    config.unet_config.update(SDXL)
    inner = comfy.model_base.SDXL(config, device="meta")
    model = ModelPatcher(inner, torch.device("cpu"), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        save(path, drawn(RANK, 0))
        clock = Clock()
        lora = load(path)
        found = {f"read: {what}": value for what, value in clock.told().items()}
        clock = Clock()
        lora = lora.rotated()  # as LoRA2 Load does with a file of another program
        found |= {f"into the singular basis: {what}": v for what, v in clock.told().items()}
        clock = Clock()
        lora = adopt(lora, model)
        targets = resolve(lora, model)
        apply_structured(model, None, cut_for(lora, 0.5, targets), (1.0, 1.0), targets)
        found |= {f"applied: {what}": value for what, value in clock.told().items()}
    return found | {"layers": len(targets), "MB": lora.megabytes(), "peak MB": peak()}


def kinds() -> dict:
    """Compress of LoHa, LoKr and full differences at three sizes, against exact decompositions."""
    g = torch.Generator().manual_seed(0)
    sizes, found = [(640, 640), (1280, 640), (640, 2560)] * 2, {}

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    fall = torch.arange(1, 641).float() ** -0.7
    made = {
        "LoHa": lambda a, b: {f".hada_w{n}_{s}": draw(*d) for n in (1, 2)
                              for s, d in (("a", (a, 8)), ("b", (8, b)))},
        "LoKr": lambda a, b: {".lokr_w1": draw(16, 16), ".lokr_w2": draw(a // 16, b // 16)},
        "diff": lambda a, b: {".diff": draw(a, 640) * fall @ draw(640, b)},
    }  # fmt: skip
    for kind, make in made.items():
        others = {f"diffusion_model.{n}": OtherChange(make(*s)) for n, s in enumerate(sizes)}
        dense = [update_of(kind, change.tensors) for change in others.values()]
        values = [torch.linalg.svdvals(update.double()) for update in dense]
        costs = [sum(size) for size in sizes]
        for budget in (0.1, 0.4, 1.6):
            clock = Clock()
            lora = compress(RankedLora({}, others=others), budget_mb=budget, tolerance=0.0)
            seconds = clock.told()["CPU seconds"]
            lost = sum(
                float((u - y.delta()).double().square().sum())
                for u, y in zip(dense, lora.layers.values(), strict=True)
            )
            error = math.sqrt(lost / sum(float(v.square().sum()) for v in values))
            best = least_error(values, costs, budget * 1e6 / 2)
            found[f"{kind}, {budget:g} MB"] = (
                f"error {error:.4f}, best possible {best:.4f}, {seconds:.1f} CPU s"
            )
    return found


def update_of(kind: str, tensors: dict) -> Tensor:
    """The full update of a change, by its definition."""
    if kind == "LoHa":
        first, second = (tensors[f".hada_w{n}_a"] @ tensors[f".hada_w{n}_b"] for n in (1, 2))
        return first * second
    if kind == "LoKr":
        return torch.kron(tensors[".lokr_w1"], tensors[".lokr_w2"])
    return tensors[".diff"]


class Clock:
    """Measures seconds, and seconds of all cores together, since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def told(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.wall,
                "CPU seconds": time.process_time() - self.cpu}  # fmt: skip


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Prints the figures, each from a process of its own."""
    run = {"merge": merging, "extract": extracting, "speed": speeds, "load": loading}
    run |= {"kinds": kinds, "eight": eight_bits.figures}
    if sys.argv[1:2] == ["write"]:
        written(Path(sys.argv[2]))
        return
    if sys.argv[1:2] == ["here"]:
        with torch.inference_mode():
            print(json.dumps(run[sys.argv[2]]()))
        return
    for figure in sys.argv[1:] or FIGURES:
        out = subprocess.run([*MODULE, "here", figure], capture_output=True, text=True, check=False)
        if out.returncode:
            raise SystemExit(out.stderr[-3000:])
        print(f"{figure}:")
        for what, value in json.loads(out.stdout.strip().splitlines()[-1]).items():
            text = f"{value:.4g}" if isinstance(value, float) else value
            print(f"  {what}: {text}", flush=True)


if __name__ == "__main__":
    main()
