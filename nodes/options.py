"""Options for LoRA² Train, chainable: how ranks are learned, which layers, memory against speed."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.host.training.choices import CHECKPOINTING
from ..lora2_core.layers.targets import ATTENTION, LAYERS, REGEX
from ..lora2_core.ranks.settings import INITS
from .common import CATEGORY, Lora2Options, check_options
from .fields import checked

AUTO = "auto"
OWN = -1.0  # of a number field: the mode's own value


def extend(options: dict | None, **changes) -> dict:
    """Returns a chain's options with one node's own on top; None stands for the mode's own value,
    so that a later node can set that back too.
    """
    return check_options(options) | changes


def unless(own: object, value: object) -> object:
    """Returns what a field holds, None where that is its sign for the mode's own value."""
    return None if value == own else value


def own_value(name: str, tooltip: str, most: float = 1000.0) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=OWN,
        min=OWN,
        max=most,
        step=1e-6,
        round=1e-9,
        tooltip=f"{tooltip} -1: the mode's own.",
    )


class LoRA2RankOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2RankOptions",
            display_name="LoRA\u00b2 Rank Options",
            category=CATEGORY,
            description="Every hyper-parameter of the rank learning. The defaults are the mode's "
            "own.",
            search_aliases=["quantile", "lambda rank", "importance"],
            inputs=[
                io.Float.Input(
                    "quantile",
                    default=OWN,
                    min=OWN,
                    max=0.9999,
                    step=0.01,
                    tooltip="Share of all importance that lies inside the rank. "
                    "-1: the mode's own (paper 0.9, adaptive 0.3).",
                ),
                io.Int.Input(
                    "start_rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Rank at the first step. 0: the mode's own.",
                ),
                io.Combo.Input(
                    "init",
                    options=[AUTO, *INITS],
                    default=AUTO,
                    tooltip="Scale of lora_down at the start.",
                ),
                own_value(
                    "tolerance",
                    "adaptive: rank positions worth less than this share of a typical one are "
                    "given back, 0.01 to 0.1 for smaller files; 0 keeps all that the size allows.",
                    most=1.0,
                ),
                own_value("rank_weight", "Weight of the rank loss (lambda_rank)."),
                own_value(
                    "attention_weight",
                    "Weight of the attention entropy (lambda_attn); paper mode only.",
                ),
                own_value("rate_learning_rate", "Learning rate of the rates."),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        quantile,
        start_rank,
        init,
        tolerance,
        rank_weight,
        attention_weight,
        rate_learning_rate,
        options=None,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            extend(
                options,
                quantile=unless(OWN, quantile),
                start_rank=unless(0, start_rank),
                init=unless(AUTO, init),
                tolerance=unless(OWN, tolerance),
                rank_weight=unless(OWN, rank_weight),
                attention_weight=unless(OWN, attention_weight),
                rate_learning_rate=unless(OWN, rate_learning_rate),
            )
        )


class LoRA2TargetOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2TargetOptions",
            display_name="LoRA\u00b2 Target Options",
            category=CATEGORY,
            description="Which layers get an adapter, and which ranks some of them may have. "
            "LoRA\u00b2 Layers shows what is chosen.",
            search_aliases=["target modules", "layers", "block weight", "per-block rank"],
            inputs=[
                io.String.Input(
                    "targets",
                    default=ATTENTION,
                    tooltip="Python regular expression, searched in names such as "
                    "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
                ),
                io.Combo.Input(
                    "layers",
                    options=list(LAYERS),
                    default=REGEX,
                    optional=True,
                    tooltip="regex: what targets matches. The others take their kind of layer in "
                    "any model, and targets says nothing.",
                ),
                io.String.Input(
                    "only_blocks",
                    default="",
                    optional=True,
                    tooltip="Blocks to train, empty for all: down, mid, up, double, single, or a "
                    "block's name, each also with a number or a range: down 4, up 0-3",
                ),
                io.String.Input(
                    "without_blocks",
                    default="",
                    optional=True,
                    tooltip="Blocks to leave out, written like only_blocks.",
                ),
                io.String.Input(
                    "layer_ranks",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Lines such as attn2 = 16: layers whose names match the pattern have "
                    "at most that rank, in fixed mode exactly that. attn2 = 16 target 8 gives them "
                    "a target_rank of their own. The first line that matches counts.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        targets,
        options=None,
        layers=REGEX,
        only_blocks="",
        without_blocks="",
        layer_ranks="",
    ) -> io.NodeOutput:
        return io.NodeOutput(
            extend(
                options,
                targets=targets,
                layers=layers,
                only_blocks=only_blocks,
                without_blocks=without_blocks,
                layer_ranks=layer_ranks,
            )
        )


class LoRA2MemoryOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2MemoryOptions",
            display_name="LoRA\u00b2 Memory Options",
            category=CATEGORY,
            description="Memory against speed.",
            search_aliases=["gradient checkpointing", "out of memory", "vram", "oom"],
            inputs=[
                io.Combo.Input(
                    "checkpointing",
                    options=list(CHECKPOINTING),
                    default=AUTO,
                    tooltip="on: blocks compute their activations again in the backward pass, a "
                    "third more time for a fraction of the memory. auto: from the first step on "
                    "that finds too little memory.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )

    @classmethod
    @checked
    def execute(cls, checkpointing, options=None) -> io.NodeOutput:
        return io.NodeOutput(extend(options, checkpointing=checkpointing))


NODES = [LoRA2RankOptions, LoRA2TargetOptions, LoRA2MemoryOptions]
