"""What each regulariser does on the playground: `python -m tests.benchmarks.regularisers`.

Six test subjects, each trained with and without it on six pictures. The loss is that of pictures of
the same subject on backgrounds, and in a style, that it was not trained on. Results are kept in a
file, so that a second start goes on; `--report` prints them again and trains nothing.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from pathlib import Path

from tests.benchmarks.ranks.pictures import TEST, split
from tests.benchmarks.ranks.statistics import interval
from tests.hosting import inprocess

FILE = Path(__file__).parent / "results" / "regularisers.json"
FIELDS = {
    "steps": 200, "batch_size": 4, "learning_rate": 5e-3, "target_rank": 8, "max_rank": 32,
    "seed": 0,
}  # fmt: skip
VARIANTS = {
    "none": {},
    "rank_dropout 0.1": {"rank_dropout": 0.1},
    "rank_dropout 0.3": {"rank_dropout": 0.3},
    "module_dropout 0.1": {"module_dropout": 0.1},
    "module_dropout 0.3": {"module_dropout": 0.3},
    "scale_weight_norms 1": {"scale_weight_norms": 1.0},
    "scale_weight_norms 0.3": {"scale_weight_norms": 0.3},
}


def run() -> dict[str, dict[str, dict[str, float]]]:
    """Returns {variant: {subject: {loss, norm}}}, of which it trains what is missing."""
    import torch

    from lora2_core.adapter.history import History
    from lora2_core.host.playground import load_playground
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from lora2_core.playground import asset
    from tests.benchmarks.held_out import encode

    found = json.loads(FILE.read_text()) if FILE.is_file() else {}
    with torch.inference_mode():
        model, clip, vae = load_playground(asset.load())
        for subject in TEST:
            sets = split(subject)
            data, unseen = (
                encode(clip, vae, [p.image() for p in some], [p.caption for p in some])
                for some in (sets["train"], sets["background"] + sets["style"])
            )
            own = {"validation_latents": unseen[0], "validation_positive": unseen[1]}
            own["validation_every"] = FIELDS["steps"]
            for name, options in VARIANTS.items():
                if subject in found.setdefault(name, {}):
                    continue
                choices = Choices.of(FIELDS | options | own)
                lora = train_on(model, *data, choices, lambda step: None).lora
                norms = [float(layer.delta().norm()) for layer in lora.layers.values()]
                loss = History.of(lora).held_out.losses[-1]
                found[name][subject] = {"loss": loss, "norm": statistics.median(norms)}
                FILE.parent.mkdir(exist_ok=True)
                FILE.write_text(json.dumps(found, indent=1))
    return found


def report(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Returns a table in Markdown: the loss against that of a run without, paired by subject."""
    plain = found["none"]
    lines = ["| | loss on unseen pictures, against none | median norm of a layer's update |"]
    lines.append("|---|--:|--:|")
    for name, values in found.items():
        norm = statistics.median(each["norm"] for each in values.values())
        logs = [math.log(values[s]["loss"] / plain[s]["loss"]) for s in values if s in plain]
        mean, low, high = (100 * (v - 1) for v in interval(logs).exp())
        change = "0" if name == "none" else f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {name} | {change} | {norm:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    inprocess.enter(Path(os.environ["LORA2_HOST"]))
    kept = json.loads(FILE.read_text()) if "--report" in sys.argv else run()
    sys.stdout.write(report(kept) + "\n")
