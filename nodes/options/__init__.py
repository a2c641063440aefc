"""Option nodes, one in each file, and presets of them. A user chains them into the input `options`
of LoRA² Train.
"""

from .checkpoint import LoRA2CheckpointOptions
from .data import LoRA2DataOptions
from .loss import LoRA2LossOptions
from .memory import LoRA2MemoryOptions
from .optimizer import LoRA2OptimizerOptions
from .presets import LoRA2Preset, LoRA2SavePreset
from .preview import LoRA2PreviewOptions
from .rank import LoRA2RankOptions
from .regularization import LoRA2RegularizationOptions
from .start import LoRA2StartOptions
from .target import LoRA2TargetOptions
from .text_encoder import LoRA2TextEncoderOptions
from .validation import LoRA2ValidationOptions

NODES = [
    LoRA2RankOptions,
    LoRA2TargetOptions,
    LoRA2MemoryOptions,
    LoRA2OptimizerOptions,
    LoRA2LossOptions,
    LoRA2RegularizationOptions,
    LoRA2DataOptions,
    LoRA2StartOptions,
    LoRA2TextEncoderOptions,
    LoRA2ValidationOptions,
    LoRA2CheckpointOptions,
    LoRA2PreviewOptions,
    LoRA2Preset,
    LoRA2SavePreset,
]
