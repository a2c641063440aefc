"""Everything a developer runs: `python -m pip install nox && python -m nox --list`.

All sessions but `lint` share one environment in the user's cache (tests/hosting/provision.py), so
they use no environment of nox's own and call its interpreter.
"""

import os
import sys
from importlib.metadata import distributions
from pathlib import Path

import nox
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parent))
from tests.hosting.provision import (  # noqa: E402
    HOSTS,
    RUFF,
    ProvisionError,
    cache_folder,
    cached_host,
    provision,
)

OLDEST = (  # the host's list has safetensors from 0.4.2 on, its oldest transformers from 0.4.3 on
    "safetensors==0.4.3", "transformers==4.50.3", "tokenizers==0.21.0", "huggingface-hub==0.26.0",
)  # fmt: skip
nox.options.sessions = ["lint", "tests"]
OPTIMIZERS = ("optimizers", "prodigyopt==1.1.2", "bitsandbytes==0.50.2")
# Processes that share the tests; each server and browser of theirs takes a core of its own at times
WORKERS = str(min(4, os.cpu_count() or 1))
RAY = (  # and what of its requirements the host does not bring
    "ray==2.60.0", "msgpack==1.2.4", "protobuf==7.36.2", "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1", "referencing==0.37.0", "rpds-py==2026.9.1",
    "pandas==3.1.1", "pyarrow==26.0.1",  # for Ray Tune
)  # fmt: skip
CLIENTS = (  # programs that read our files, and what of their requirements the host does not bring
    "diffusers==0.42.1", "peft==0.21.2", "accelerate==1.15.0", "lycoris-lora==4.1.3",
    "toml==0.10.2", "importlib-metadata==10.2.0", "zipp==4.1.2",
)  # fmt: skip
COMFY_CLI = (  # the registry's tool, and what `node validate` and `node pack` import
    "comfy-cli==1.23.0", "pathspec==1.1.1", "semver==3.1.2", "tomlkit==0.15.0",
)  # fmt: skip

LINTERS = ("mypy==2.4.1", "deptry==0.25.1", "codespell==2.4.3")
# texts that people read, error messages and docstrings among them
SPELLED = (
    "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs", "web/docs", "nodes",
    "lora2_core",
)  # fmt: skip


def in_host(session: nox.Session, *arguments: str, **environment: str) -> None:
    """Runs the shared interpreter in the repository, with the host's folder in LORA2_HOST."""
    try:
        host = provision()
    except ProvisionError as error:
        session.error(str(error).removesuffix("."))  # nox adds one
    variables = host.environment() | environment
    session.run(str(host.python), *arguments, env=variables, external=True)


def beside(session: nox.Session, name: str, *packages: str) -> dict[str, str]:
    """Optional packages in a folder of their own beside the shared environment; how to see them."""
    folder = cache_folder() / name
    found = distributions(path=[str(folder)])
    there = {f"{canonicalize_name(d.name)}=={d.version}" for d in found}
    if not there >= set(packages):
        pip = ("-m", "pip", "install", "-q", "--no-deps", "--target", str(folder))
        in_host(session, *pip, "--upgrade", *packages)
    return {"PYTHONPATH": str(folder)}


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train, show and use an adapter in a real ComfyUI; `-- --help` for your own checkpoint."""
    in_host(session, "-m", "tests.demo", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The fast tests. `-- --all` runs every test, `-- PATH…` all tests of these files and nodes."""
    optional = beside(session, *OPTIMIZERS)
    if session.posargs:  # for slow tests of these alone, which find them there
        beside(session, "ray", *RAY)
        beside(session, "comfy-cli", *COMFY_CLI)
        beside(session, "clients", *CLIENTS)
    named = any(Path(argument.split("::")[0]).is_file() for argument in session.posargs)
    spread = () if named else ("-n", WORKERS, "--dist", "loadscope", "--no-loadscope-reorder")
    threads = {} if named else {"OMP_NUM_THREADS": "1"}
    in_host(session, "-m", "pytest", *spread, *session.posargs, **optional, **threads)


@nox.session(venv_backend="none")
def mutations(session: nox.Session) -> None:
    """Small faults put into what ships: how many the fast tests notice, how many every test."""
    optional = beside(session, *OPTIMIZERS)
    in_host(session, "-m", "tests.mutations", *session.posargs, **optional)


@nox.session(venv_backend="none")
def models(session: nox.Session) -> None:
    """Every class of the host's models as a small random one: trained, saved, loaded (minutes).
    `-- --page` writes docs/models.md.
    """
    in_host(session, "-m", "tests.models", *session.posargs)


@nox.session(venv_backend="none")
def browser(session: nox.Session) -> None:
    """The browser tests in the oldest, the host's own and the newest front end, in every look."""
    in_host(session, "-m", "pytest", "tests/browser", "--all", *session.posargs)


@nox.session(venv_backend="none")
def screenshots(session: nox.Session) -> None:
    """The pictures of the README, the help pages and the examples, from real runs in a browser."""
    module = ("tests.hosting.inprocess", "tests.browser.screenshots")
    in_host(session, "-m", *module, *session.posargs)


@nox.session(venv_backend="none")
def brand(session: nox.Session) -> None:
    """The icon and the banner of the registry's page."""
    in_host(session, "-m", "tests.publishing.brand")


@nox.session(venv_backend="none")
def ui(session: nox.Session) -> None:
    """ComfyUI's front end with the pack, until Ctrl-C."""
    in_host(session, "-m", "tests.hosting.ui", *session.posargs)


@nox.session(name="train-playground", venv_backend="none")
def train_playground(session: nox.Session) -> None:
    """Train the embedded model anew (hours); default folder: playground in the cache."""
    arguments = session.posargs or [str(cache_folder() / "playground")]
    in_host(session, "-m", "tests.hosting.inprocess", "tests.playground.train", *arguments)


@nox.session(name="train-flow", venv_backend="none")
def train_flow(session: nox.Session) -> None:
    """Train the second base of the experiments on ranks, a flow transformer, into the cache (a
    quarter of an hour of one core); goes on where it stopped.
    """
    arguments = [str(cache_folder() / "playground"), *session.posargs]
    in_host(session, "-m", "tests.hosting.inprocess", "tests.playground.train_flow", *arguments)


@nox.session(name="evaluate-playground", venv_backend="none")
def evaluate_playground(session: nox.Session) -> None:
    """Contact sheet of the embedded model, and how often a classifier recognises its samples."""
    arguments = [str(cache_folder() / "playground"), *session.posargs]
    in_host(session, "-m", "tests.hosting.inprocess", "tests.playground.evaluate", *arguments)


@nox.session(venv_backend="none")
def protocol(session: nox.Session) -> None:
    """The papers' evaluation on the playground: table and plots; goes on where it stopped.
    `-- --search playground`: settings for it, through Ray Tune.
    """
    ray = {"--search", "--workers", "--ray"} & set(session.posargs)
    path = beside(session, "ray", *RAY) if ray and "--report" not in session.posargs else {}
    demo = ("-m", "tests.hosting.inprocess", "tests.protocol.demo")
    in_host(session, *demo, *session.posargs, **path)


@nox.session(venv_backend="none")
def clients(session: nox.Session) -> None:
    """Files of ours in diffusers, peft, lycoris-lora and ComfyUI: the update of every layer."""
    path = beside(session, "clients", *CLIENTS)
    in_host(session, "-m", "tests.hosting.inprocess", "tests.clients", *session.posargs, **path)


@nox.session(venv_backend="none")
def files(session: nox.Session) -> None:
    """LoRA files of every kind, spelling and family: against ComfyUI's loader, and saved again
    (a quarter of an hour); `-- --help`.
    """
    path = beside(session, "clients", *CLIENTS) | {"OMP_NUM_THREADS": "1"}
    module = ("-m", "tests.hosting.inprocess", "tests.host.every_family")
    in_host(session, *module, *session.posargs, **path)


@nox.session(venv_backend="none")
def scale(session: nox.Session) -> None:
    """The protocol on Ray: a killed worker, two workers against one, the cost of a trial."""
    path = beside(session, "ray", *RAY)
    toy = str(cache_folder() / "toy")
    in_host(session, "-m", "tests.hosting.inprocess", "tests.protocol.encoders", toy)
    in_host(session, "-m", "tests.protocol.scale", *session.posargs, **path)


@nox.session(venv_backend="none")
def parallel(session: nox.Session) -> None:
    """One adapter trained by two processes, against one at the same batch size."""
    module = ("tests.hosting.inprocess", "tests.parallel")
    in_host(session, "-m", *module, *session.posargs, LORA2_DEVICE="cpu")


@nox.session(venv_backend="none")
def exactness(session: nox.Session) -> None:
    """What must be exact: loaders alike, the model untouched, the seed obeyed; and how exact
    gradients on quantised models are (`-- quantised` for these alone, a minute).
    """
    if session.posargs != ["quantised"]:
        in_host(session, "-m", "tests.hosting.inprocess", "tests.benchmarks.exactness")
    in_host(session, "-m", "tests.hosting.inprocess", "tests.benchmarks.quantised")


@nox.session(name="bench-ranks", venv_backend="none")
def bench_ranks(session: nox.Session) -> None:
    """All experiments on ranks (hours); goes on where it stopped. Default: their own results."""
    path = beside(session, "clients", *CLIENTS)  # lycoris-lora trains two of the controls of H
    arguments = session.posargs or ["tests/benchmarks/ranks/results"]
    in_host(session, "-m", "tests.hosting.inprocess", "tests.benchmarks.ranks", *arguments, **path)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Speed and memory against the limit and other trainers (hours); goes on where it stopped."""
    path = beside(session, "peft", "peft==0.21.2", "accelerate==1.15.0")
    module = ("tests.hosting.inprocess", "tests.benchmarks.speed")
    in_host(session, "-m", *module, *session.posargs, **path)


@nox.session(name="bench-compile", venv_backend="none")
def bench_compile(session: nox.Session) -> None:
    """Seconds of a step with and without torch.compile (a quarter of an hour)."""
    module = ("tests.hosting.inprocess", "tests.benchmarks.compiling")
    in_host(session, "-m", *module, *session.posargs, OMP_NUM_THREADS="1")


@nox.session(name="bench-options", venv_backend="none")
def bench_options(session: nox.Session) -> None:
    """Training options on the playground: LoRA+, dropout, caps, preservation, each against a run
    without (an hour of one core); goes on where it stopped; `-- --report` prints the stored table.
    """
    module = ("tests.hosting.inprocess", "tests.benchmarks.options")
    in_host(session, "-m", *module, *session.posargs)


@nox.session(name="bench-files", venv_backend="none")
def bench_files(session: nox.Session) -> None:
    """Merge, Extract and Compress at the size of SDXL: seconds, memory, error against the best
    possible (minutes, 11 GB of disk); `-- merge`, `extract`, `speed` or `kinds` for one of them.
    """
    module = ("tests.hosting.inprocess", "tests.benchmarks.adapters")
    in_host(session, "-m", *module, *session.posargs)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """On a real card, in the real host: seconds and memory of steps, small models, attention back
    ends, weights in RAM, dynamic VRAM and quantised kinds against the CPU (half an hour);
    `-- FOLDER` to keep it as gpu.json, `--only steps alike servers quantised` for parts.
    """
    in_host(session, "-m", "tests.gpu.run_all", *session.posargs)


@nox.session(name="null-gpu", venv_backend="none")
def null_gpu(session: nox.Session) -> None:
    """What training costs on a card, without one: launches, host time, memory, which runs start on
    8, 12 and 16 GB (half an hour); `-- steps` for one table, `-- case FIELD=VALUE…` for one row.
    """
    optional = beside(session, *OPTIMIZERS)
    in_host(session, "-m", "tests.null_gpu", *session.posargs, **optional)


@nox.session(name="host-matrix", venv_backend="none")
def host_matrix(session: nox.Session) -> None:
    """The host tier on older ComfyUIs too (hours); `-- VERSION…` for some of them."""
    failed = []
    for comfyui in session.posargs or HOSTS:
        try:
            other = str(cached_host(comfyui))
            in_host(session, "-m", "tests.reliability.matrix", LORA2_HOST=other)
        except nox.command.CommandFailed:
            failed.append(comfyui)
    if failed:
        session.error(f"the host tier fails on ComfyUI {', '.join(failed)}")


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Malformed adapters, flipped bits, hostile names, fuzzed prompts; `-- SEED FIGURE` for one."""
    in_host(session, "-m", "tests.hosting.inprocess", "tests.reliability.fuzz", *session.posargs)


@nox.session(venv_backend="none")
def chaos(session: nox.Session) -> None:
    """Kills, a failing disk, interrupts, too little memory, NaN (an hour); `-- SEED` for others."""
    oldest = beside(session, OLDEST[0].replace("==", "-"), *OLDEST)
    module = ("-m", "tests.hosting.inprocess", "tests.reliability.chaos")
    in_host(session, *module, "kills", "200", *session.posargs, **oldest)
    in_host(session, *module, "all", "200", *session.posargs)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """Interrupts, and 200 trainings in one server beside a second client (half an hour)."""
    in_host(session, "-m", "tests.reliability.soak", *session.posargs)


@nox.session(venv_backend="none")
def gate(session: nox.Session) -> None:
    """What must not be in what ships, and 500 strings that would be markup in the browser."""
    in_host(session, "-m", "tests.reliability.xss", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy in the core without the host, deptry, and codespell: faults, format, types,
    declared packages, spelling.
    """
    session.install("-q", RUFF, *LINTERS)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)
    session.run("mypy")
    session.run("deptry", ".")
    session.run("codespell", *SPELLED)
