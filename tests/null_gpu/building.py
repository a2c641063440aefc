"""Builds the null GPU for the torch of this interpreter, once for each version, in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

from tests.hosting.provision import cache_folder, lock

SOURCE = Path(__file__).with_name("stub.cc")
# torch's libraries whose CUDA symbols must all be there
LIBRARIES = ("libtorch_cuda", "libc10_cuda", "libtorch_cuda_linalg", "libtorch_python")
# libraries that stay NVIDIA's own
REAL = ("cufft", "cusparse", "curand", "cusolver")
GEMM = re.compile(r"cublas(Lt)?[SDCZ]?(gemm|Gemm|Matmul$|gemv|dot|trsm|Dot)")
CONV = re.compile(r"cudnnConvolution(Forward|BackwardData|BackwardFilter|BiasActivationForward)$")
# what torch asks of the driver itself
DRIVER = (
    "cuCtxGetCurrent", "cuCtxSetCurrent", "cuDeviceGet", "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain", "cuFuncGetAttribute", "cuFuncSetAttribute",
    "cuFuncSetCacheConfig", "cuGetErrorString", "cuLaunchCooperativeKernel", "cuLaunchKernel",
    "cuLinkAddData_v2", "cuLinkComplete", "cuLinkCreate_v2", "cuModuleGetFunction",
    "cuModuleLoad", "cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor", "cuPointerGetAttribute",
    "cuTensorMapEncodeTiled",
)  # fmt: skip
EXPORTED = '__attribute__((visibility("default")))'


def why_not() -> str | None:
    """Returns one sentence that says why it can't be built here, None where it can."""
    if not torch.version.cuda:
        return "The null GPU needs torch's CUDA build; this one has no CUDA."
    if missing := [tool for tool in ("gcc", "g++", "nm") if shutil.which(tool) is None]:
        return f"The null GPU needs a C++ compiler: {', '.join(missing)} can't be found."
    if headers() is None:
        return "The null GPU needs CUDA's headers: install the package nvidia-cuda-crt."
    return None


def headers() -> list[Path] | None:
    """Returns the folders of CUDA's headers, None where some are missing. They are those of torch's
    own packages, but for crt/host_defines.h: it comes with a toolkit or the package
    nvidia-cuda-crt.
    """
    site = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = [site / f"cu{torch.version.cuda.split('.')[0]}" / "include", site / "cudnn" / "include"]
    places = [found[0], *sorted(Path("/usr/local").glob("cuda*/include"))]
    crt = next((p for p in places if (p / "crt" / "host_defines.h").is_file()), None)
    return [*found, crt] if crt and all(map(Path.is_dir, found)) else None


def built() -> Path:
    """Returns the folder with libnullgpu.so and lib/libcuda.so.1, built first where they are not.
    Raises RuntimeError with the sentence of `why_not`.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    text = SOURCE.read_bytes() + Path(__file__).read_bytes() + torch.__version__.encode()
    folder = cache_folder() / f"null-gpu-{hashlib.sha256(text).hexdigest()[:12]}"
    with lock("null-gpu"):
        if not (folder / "complete").is_file():
            (folder / "lib").mkdir(parents=True, exist_ok=True)
            build(folder)
            (folder / "complete").touch()
    return folder


def build(folder: Path) -> None:
    """Compiles the stub, and functions that return 0 for all other symbols that torch asks for."""
    source = SOURCE.read_text(encoding="utf-8")
    have = set(re.findall(r"\b((?:__)?cu[A-Za-z0-9_]+)\(", source))
    have |= set(re.findall(r"MK\(\w+, (\w+)\)", source))
    lines = ["void nullgpu_gemm(); void nullgpu_conv();"]
    for symbol in sorted(wanted_symbols() - have):
        if not symbol.startswith(REAL):
            count = "nullgpu_gemm(); " if GEMM.match(symbol) else ""
            count = "nullgpu_conv(); " if CONV.match(symbol) else count
            lines.append(f"{EXPORTED} long {symbol}() {{ {count}return 0; }}")
    (folder / "generic.c").write_text("\n".join(lines) + "\n")
    driver = [f"long {symbol}() {{ return 0; }}" for symbol in DRIVER]
    driver += [
        "int cuDevicePrimaryCtxGetState(int d, unsigned* f, int* a) { *f = 0; *a = 1; return 0; }",
        "int cuInit(unsigned f) { return 100; }",
    ]
    (folder / "cuda.c").write_text("\n".join(driver) + "\n")
    include = [f"-I{path}" for path in headers()]
    shared, objects = ["-fPIC", "-w"], [str(folder / "stub.o"), str(folder / "generic.o")]
    compiled = ["-O2", "-std=c++17", *shared, *include, "-c", str(SOURCE), "-o", objects[0]]
    called("g++", *compiled)
    called("gcc", "-O1", *shared, "-c", str(folder / "generic.c"), "-o", objects[1])
    called("g++", "-shared", "-o", str(folder / "libnullgpu.so"), *objects)
    library = str(folder / "lib" / "libcuda.so.1")
    called(
        "gcc", *shared, "-shared", str(folder / "cuda.c"), "-o", library, "-Wl,-soname,libcuda.so.1"
    )


def wanted_symbols() -> set[str]:
    """Returns the names of CUDA's functions that torch's libraries ask for."""
    names: set[str] = set()
    for library in LIBRARIES:
        path = Path(torch.__file__).parent / "lib" / f"{library}.so"
        done = subprocess.run(
            ["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True
        )
        names |= {line.split()[-1].split("@")[0] for line in done.stdout.splitlines() if line}
    return {name for name in names if name.startswith("cu")}


def called(*command: str) -> None:
    """Runs a compiler. Raises RuntimeError with its last lines where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The null GPU could not be built: {done.stderr[-500:]}")


def environment(gigabytes: float, compute: int = 89, **others: str) -> dict[str, str]:
    """Returns the environment of a process that sees a card of this size; compute: 89 is that of
    an RTX 40xx, 75 of a 20xx, 120 of a 50xx.
    """
    folder = built()
    return os.environ | {
        "LD_PRELOAD": str(folder / "libnullgpu.so"),
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "TORCH_CUDNN_V8_API_DISABLED": "1",
        "OMP_NUM_THREADS": "1",
        "NULLGPU_GB": str(gigabytes),
        "NULLGPU_SM": str(compute),
        "NULLGPU_ZERO": "1",
        **others,
    }
