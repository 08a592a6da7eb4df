"""U-Net of Ronneberger et al. 2015 (arXiv:1505.04597), with convolutions that keep the size.

Images [B, side, side, channels] in [0, 1] -> logits [B, side, side, 1]. 7,759,521 parameters at
depth 4, 32 filters, one grey channel, no norm.

    size      encoder                       decoder                                    depth 3
    side      E0 = block(image)      ─────> D0 = block(concat[E0, up(D1)]) -> 1x1 head
    side/2    E1 = block(pool(E0))   ─────> D1 = block(concat[E1, up(D2)])
    side/4    E2 = block(pool(E1))   ─────> D2 = block(concat[E2, up(E3)])
    side/8    E3 = block(pool(E2))

f, 2f, 4f, 8f filters, or those that the config lists; without skips D = block(up). With an encoder
of keras.applications (encoders.py) the E are its features, and D0 has a skip with VGG16 alone.
With empty_head the mean of the deepest E gives one more logit, "there is a lesion", as SIIM-ACR's
fourth place did; it is the output of the layer blocks.LESION.
With `classes`, for pretraining: D0 -> mean over the image -> logits [B, 1] or [B, classes]; with
`findings` -> [B, findings].
"""

import keras

from trainer.config.network import Unet
from trainer.models import blocks, classifier, encoders


def build(section: Unet, side: int, channels: int = 1) -> keras.Model:
    """Return the network for images [B, side, side, channels]."""
    images = keras.Input((side, side, channels), name="images")
    skips = encoders.encode(images, side, section, "level_{}")
    widths, x = section.decoder_widths(), skips[-1]
    blocks.check_sizes(side, section.depth, widths, section.norm)
    for i in reversed(range(section.depth)):
        name = f"decoder_{i}"
        x = blocks.upsampling(x, widths[i], section, section.upsampling, name)
        if section.skips and skips[i] is not None:
            x = keras.layers.Concatenate(name=f"{name}_concat")([skips[i], x])
        if section.dropout:
            x = keras.layers.Dropout(section.dropout, name=f"{name}_dropout")(x)
        x = blocks.block(x, widths[i], section, section.decoder_convolutions, name)
    if section.classes or section.findings:
        return classifier.pretraining_classifier(images, x, section)
    logits = blocks.head(x, "head")
    extra = [blocks.lesion_head(skips[-1])] if section.empty_head else []
    return keras.Model(images, blocks.with_extra_outputs(logits, extra), name="unet")
