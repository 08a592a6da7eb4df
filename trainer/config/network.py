"""Sections of the networks: blocks, encoders, decoders, U-Net, U-Net++, VAE and classifier."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.config import parts

DEEPEST_ENCODER = 5  # the deepest features of keras.applications are at 1/2^5 of the side


Share = Annotated[float, Field(ge=0, le=1)]


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


# Of the lake: one logit an image for 2, lesion or none; one a class for more.
Classes = Annotated[int, Field(ge=2)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Blocks(Section):
    """What the networks are built of (trainer/models/blocks.py)."""

    norm: Literal[tuple(parts.NORMS)] = "none"
    order: Literal["conv_norm_act", "conv_act_norm"] = "conv_norm_act"
    activation: Literal[tuple(parts.ACTIVATIONS)] = "relu"
    negative_slope: float = Field(0.01, ge=0)  # of leaky_relu
    convolutions: Literal[1, 2] = 2  # 3x3 convolutions in a block of the encoder
    residual: bool = False  # a block's input is added before its last activation


class Encoded(Blocks):
    """An encoder: of our own blocks (plain), or from keras.applications (parts.ENCODERS)."""

    encoder: Literal[("plain", *parts.ENCODERS)] = "plain"
    # "imagenet" (downloaded), a keras.applications file without the top (.weights.h5 or .h5), or
    # another radlake network's .weights.h5, whose layers of the same name and shapes are taken.
    weights: str | None = None
    # Of an encoder of keras.applications: none, all, or its first N stages, down to 1/2^N.
    freeze: Literal["none", "all", 1, 2, 3, 4, 5] = "none"

    @model_validator(mode="after")
    def _something_to_freeze(self) -> "Encoded":
        if self.freeze != "none" and self.encoder == "plain":
            raise ValueError(f"freeze={self.freeze}: encoder=plain is not frozen; use another one")
        if self.freeze != "none" and self.weights is None:
            raise ValueError(f"freeze={self.freeze} keeps random weights; give weights, too")
        return self


class Decoder(Encoded):
    """What U-Net and U-Net++ share."""

    depth: int = Field(4, ge=1, le=8)  # number of poolings
    # Of the first level, doubled at each level below; or of each level: depth + 1 numbers, depth of
    # them with an encoder of keras.applications, whose features have the widths they have there.
    filters: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 32
    max_filters: int | None = Field(None, ge=1)  # no level is wider
    decoder_filters: tuple[Annotated[int, Field(ge=1)], ...] | None = None  # where they differ
    decoder_convolutions: Literal[1, 2] = 2  # 3x3 convolutions in a block of the decoder
    # *_conv: a 3x3 convolution behind it; transposed_3x3 and *_conv have activation and norm.
    upsampling: Literal[tuple(parts.UPSAMPLINGS)] = "transposed_2x2"
    dropout: float = Field(0.0, ge=0, lt=1)  # on what enters each block of the decoder
    empty_head: bool = False  # a logit "there is a lesion" from the encoder's deepest features

    @model_validator(mode="after")
    def _levels(self) -> "Decoder":
        if self.encoder != "plain" and self.depth > DEEPEST_ENCODER:
            raise ValueError(
                f"depth={self.depth}: encoder={self.encoder} has features down to 1/32; use "
                f"depth={DEEPEST_ENCODER} or less"
            )
        if isinstance(self.filters, tuple) and len(self.filters) != self._num_levels():
            raise ValueError(
                f"filters={list(self.filters)} has {len(self.filters)} levels; depth={self.depth} "
                f"with encoder={self.encoder} needs {self._num_levels()}"
            )
        if self.decoder_filters and len(self.decoder_filters) != self.depth:
            raise ValueError(
                f"decoder_filters={list(self.decoder_filters)} has {len(self.decoder_filters)} "
                f"levels; depth={self.depth} needs {self.depth}"
            )
        return self

    def _num_levels(self) -> int:
        return self.depth + (self.encoder == "plain")

    def widths(self) -> tuple[int, ...]:
        """Filters of each level of our own blocks, the first level first."""
        listed = self.filters
        if isinstance(listed, int):
            listed = [listed * 2**i for i in range(self._num_levels())]
        return tuple(min(filters, self.max_filters or filters) for filters in listed)

    def decoder_widths(self) -> tuple[int, ...]:
        return self.decoder_filters or self.widths()[: self.depth]


class Unet(Decoder):
    """U-Net (trainer/models/unet.py): one logit a pixel."""

    kind: Literal["unet"]
    classes: Classes | None = None  # a number: pretraining, see UnetPlusPlus
    skips: bool = True  # false: the decoder sees the deepest features alone


class UnetPlusPlus(Decoder):
    """U-Net++ (trainer/models/unetpp.py): one logit a pixel, or one a head."""

    kind: Literal["unetpp"]
    depth: int = Field(4, ge=1, le=5)  # L: number of poolings
    deep_supervision: bool = False  # a head on X(0,1) … X(0,L), each with its own loss
    # None: it segments. A number: pretraining; all of it up to X(0,L), without the heads, is a
    # classifier, whose weights a segmenter of the same section then takes.
    classes: Classes | None = None


class Vae(Section):
    """The VAE-regularised network (trainer/models/vae.py): one logit a pixel."""

    kind: Literal["vae"]
    filters: int = Field(32, ge=1, multiple_of=parts.GROUPS)  # of the first level; doubled below
    # Residual blocks of each level of the encoder, the first level first; three levels halve twice.
    blocks: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 2, 4), min_length=2)
    dropout: float = Field(0.2, ge=0, lt=1)  # of whole channels, behind the first convolution
    latent: int = Field(128, ge=1)  # numbers that the VAE branch draws
    empty_head: bool = False  # as a U-Net's
    weights: str | None = None  # another radlake network's .weights.h5


class Classifier(Encoded):
    """An image classifier (trainer/models/classifier.py): one logit an image, or one a class."""

    kind: Literal["classifier"]
    classes: Classes = 2
    encoder: Literal[("plain", *parts.ENCODERS)] = "densenet121"
    filters: int = Field(16, ge=1)  # of the plain encoder's first level; doubled at each below
    depth: int = Field(4, ge=1)  # number of poolings of the plain encoder
    norm: Literal[tuple(parts.NORMS)] = "batch"  # of the plain encoder
    pooling: Literal["average", "lesion_map"] = "average"
    hidden: int = Field(0, ge=0)  # units of a layer between the average and the logit; 0: none
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _needs_the_average(self) -> "Classifier":
        if self.hidden and self.pooling != "average":
            raise ValueError(f"hidden={self.hidden} needs pooling=average")
        if self.classes > 2 and self.pooling != "average":
            raise ValueError(f"classes={self.classes} needs pooling=average")
        return self
