"""What tests learn from: the examples of pictures, with and without masks."""

from lora2_core.host.training.examples import Example, make_examples, with_weights
from lora2_core.host.training.masks import MaskSettings, mask_weights
from lora2_core.host.training.pictures import Pictures


def examples_of(model, inner, latents: list[dict], positive: list[list]) -> list[Example]:
    """Returns the examples of a graph's latents and conditioning on a model on loan."""
    return make_examples(model, inner, Pictures.of(model, latents, positive))


def with_masks(examples: list[Example], settings: MaskSettings) -> list[Example]:
    """Returns the examples with the weights of masks."""
    return with_weights(examples, mask_weights(settings, [e.latent for e in examples]))
