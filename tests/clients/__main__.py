"""`nox -s clients`: files of ours in the programs that people use. The update of every layer is
compared with the one that was saved.

A client gets the file and a model of its own, and gives the update of each of its layers, by the
name that the layer has there. An update is compared by what it makes of a few random inputs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from lora2_core import RankedLora, load, save
from lora2_core.adapter.expressing import expressed
from lora2_core.adapter.names import ADDED
from tests.clients.shapes import HOSTS, adapter, in_diffusers

FAR = 1e-3  # of the norm of an update: what counts as wrong
PROBES = 4  # random inputs
Updates = Mapping[str, Tensor]  # layer -> what its update makes of them, fp64 (rows, PROBES)


def probed(update: Tensor) -> Tensor:
    """What an update makes of the random inputs for its columns."""
    flat = update.detach().flatten(1)
    generator = torch.Generator().manual_seed(flat.shape[1])
    return flat.double() @ torch.randn(flat.shape[1], PROBES, generator=generator).double()


def in_comfy(path: Path, model, shape: str) -> Updates:
    """ComfyUI's own loader: weight -> its update."""
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    return {key.removesuffix(".weight"): probed(update) for key, update in updates(patched)}


def updates(patcher) -> Iterator[tuple[str, Tensor]]:
    """Each patched weight and its update, onto a weight of zeros: one at a time."""
    state = patcher.model.state_dict()
    for key, patches in patcher.patches.items():
        zeros = torch.zeros(state[key].shape)
        yield key, comfy.lora.calculate_weight(patches, zeros, key)


def by_diffusers(path: Path, model, shape: str) -> Updates:
    """diffusers with peft: module -> its update."""
    from diffusers import loaders

    mixins = {
        "SD1.5": loaders.StableDiffusionLoraLoaderMixin,
        "SDXL": loaders.StableDiffusionXLLoraLoaderMixin,
        "Flux": loaders.FluxLoraLoaderMixin, "Wan": loaders.WanLoraLoaderMixin,
    }  # fmt: skip
    inner, mixin = in_diffusers(shape), mixins[shape.split()[0]]
    unet = shape in ("SD1.5", "SDXL")
    options = {"unet_config": inner.config} if unet else {}
    if shape.startswith("Flux"):  # its loader gives alphas only when it is asked for them
        options = {"return_alphas": True}
    found = mixin.lora_state_dict(str(path), return_lora_metadata=True, **options)
    state, *network_alphas, metadata = found
    more = {"adapter_name": "a", "metadata": metadata}
    more |= {"network_alphas": network_alphas[0]} if network_alphas else {}
    if unet:
        mixin.load_lora_into_unet(state, unet=inner, **more)
    else:
        mixin.load_lora_into_transformer(state, transformer=inner, low_cpu_mem_usage=True, **more)
    return {
        name: probed(module.get_delta_weight("a"))
        for name, module in inner.named_modules()
        if hasattr(module, "get_delta_weight") and "a" in module.lora_A
    }


def by_lycoris(path: Path, model, shape: str) -> Updates:
    """lycoris-lora, on modules with the names of the file: module -> its update."""
    from lycoris.wrapper import LycorisNetwork, create_lycoris_from_weights

    inner = in_diffusers(shape) if shape in ("SD1.5", "SDXL") else model.model.diffusion_model
    before, LycorisNetwork.LORA_PREFIX = LycorisNetwork.LORA_PREFIX, "lora_unet"
    try:
        network, _ = create_lycoris_from_weights(1.0, str(path), inner)
    finally:
        LycorisNetwork.LORA_PREFIX = before
    names = {n.replace(".", "_"): n for n, _ in inner.named_modules()}
    found = {}
    for lora in network.loras:
        weight, _ = lora.get_diff_weight(1.0)
        found[names[lora.lora_name.removeprefix("lora_unet_")]] = probed(weight)
    return found


Client = Callable[[Path, object, str], Updates]
# client -> how it reads, and the forms that are for it; in fp32 where they don't say it
CLIENTS: dict[str, tuple[Client, tuple[str, ...]]] = {
    "ComfyUI": (in_comfy, ("kohya", "kohya fp8", "peft", "uniform", "comfy", "nunchaku")),
    "diffusers + peft": (by_diffusers, ("kohya", "kohya fp8", "peft", "uniform", "comfy")),
    "lycoris-lora": (by_lycoris, ("kohya", "kohya fp8", "uniform")),
}
# UNets: the peft form is for diffusers, the comfy form for ComfyUI
NOT_FOR = {
    ("ComfyUI", "SD1.5", "peft"), ("ComfyUI", "SDXL", "peft"),
    *(("diffusers + peft", shape, "comfy") for shape in HOSTS if shape != "Wan"),
    *(("ComfyUI", shape, "nunchaku") for shape in ("SD1.5", "SDXL", "Wan")),
    # diffusers' converter of kohya files has the width of the real Flux built in
    ("diffusers + peft", "Flux", "kohya"), ("diffusers + peft", "Flux", "uniform"),
    # nor does it compute with fp8, as it must for Flux and Wan
    *(("diffusers + peft", shape, "kohya fp8") for shape in HOSTS
      if shape.startswith(("Flux", "Wan"))),
}  # fmt: skip


def wanted(lora: RankedLora, shape: str, client: str) -> Updates:
    """The updates that were saved, by the names that the client has for the layers."""
    base = lora.origin.base
    if client == "ComfyUI":
        return {name: probed(layer.delta()) for name, layer in lora.layers.items()}
    if client == "lycoris-lora" and shape not in ("SD1.5", "SDXL"):
        return {
            name.removeprefix("diffusion_model."): probed(layer.delta())
            for name, layer in lora.layers.items()
        }
    said = expressed(lora, "peft", base.diffusers)
    names = {name: said.bases[name].partition(".")[2] for name in said.lora.layers}
    if client == "lycoris-lora":  # it takes names from modules: here from those of diffusers
        names = {name: path for name, path in names.items() if not path.startswith(ADDED)}
    if shape == "Wan":
        names = {name: wan_name(path) for name, path in names.items()}
    return {path: probed(said.lora.layers[name].delta()) for name, path in names.items()}


def wan_name(path: str) -> str:
    """diffusers' own name of a layer of Wan."""
    pairs = (
        ("self_attn", "attn1"), ("cross_attn", "attn2"), ("ffn.0", "ffn.net.0.proj"),
        ("ffn.2", "ffn.net.2"), (".q", ".to_q"), (".k", ".to_k"), (".v", ".to_v"),
        (".o", ".to_out.0"),
    )  # fmt: skip
    for theirs, ours in pairs:
        path = path.replace(theirs, ours) if theirs[0] != "." else (
            path.removesuffix(theirs) + ours if path.endswith(theirs) else path
        )  # fmt: skip
    return path


def off(found: Updates, expected: Updates) -> list[str]:
    """The layers whose update is not the one that was saved, with how far they are from it."""
    wrong = []
    for name, update in expected.items():
        got = found.get(name)
        if got is None:
            wrong.append(f"{name}: not read")
        elif (far := float((got - update).norm() / update.norm())) > FAR:
            wrong.append(f"{name}: off by {far:.3f}")
    return wrong + [f"{name}: read, but never saved" for name in found.keys() - expected.keys()]


def written(path: Path, lora: RankedLora, form: str, dtype: str = "fp32") -> RankedLora:
    """Writes a file, and returns what is in it: in 8 bits, the rounded weights."""
    save(path, lora, form=form, dtype=dtype, diffusers=lora.origin.base.diffusers)
    return lora if dtype == "fp32" else replace(lora, layers=load(path).layers)


def results(clients: tuple[str, ...] = tuple(CLIENTS), shapes=tuple(HOSTS)) -> list[dict]:
    """One row for each client, structure and form: its layers, and those that are wrong."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for shape in shapes:
            model = HOSTS[shape]()
            lora = adapter(shape, model)
            for client in clients:
                read, forms = CLIENTS[client]
                for form in forms:
                    if (client, shape, form) in NOT_FOR:
                        continue
                    path = Path(folder) / f"{form}.safetensors"
                    saved = written(path, lora, *form.split())
                    with torch.inference_mode(False):
                        found = read(path, model, shape)
                    expected = wanted(saved, shape, client)
                    wrong = off(found, expected)
                    rows.append({"client": client, "shape": shape, "form": form,
                                 "layers": len(expected), "wrong": wrong})  # fmt: skip
    return rows


def main() -> None:
    """Prints a line for each client, structure and form, and fails where a layer is wrong."""
    rows = results(tuple(sys.argv[2:]) or tuple(CLIENTS))
    for row in rows:
        print(
            f"{row['client']:17} {row['shape']:9} {row['form']:9} {len(row['wrong'])} of "
            f"{row['layers']} layers off by more than {FAR:g}"
        )
        for fault in row["wrong"][:3]:
            print(f"    {fault}")
    if len(sys.argv) > 1 and sys.argv[1] != "-":
        Path(sys.argv[1]).write_text(json.dumps(rows), encoding="utf-8")
    raise SystemExit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
