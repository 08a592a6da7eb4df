"""The section `model:` of a config: U-Net, U-Net++, VAE and classifier, and what they share."""

from collections.abc import Iterator
from typing import Annotated, Literal, Union

from pydantic import Field

from trainer.config import parts
from trainer.config.section import Section, Share

DEEPEST_ENCODER = 5  # the deepest features of keras.applications are at 1/2^5 of the side
# The number of the lake's classes. 2: one logit per image, lesion or none; more: one per class.
Classes = Annotated[int, Field(ge=2)]
ALL = "all"
FindingName = Annotated[str, Field(min_length=1)]
Findings = Annotated[tuple[FindingName, ...], Field(min_length=1)] | Literal["all"] | None
AtLeast1 = Annotated[int, Field(ge=1)]


class Blocks(Section):
    """How the blocks of a network are built (trainer/models/blocks.py)."""

    norm: Literal[tuple(parts.NORMS)] = "none"
    order: Literal["conv_norm_act", "conv_act_norm"] = "conv_norm_act"
    activation: Literal[tuple(parts.ACTIVATIONS)] = "relu"
    negative_slope: float = Field(0.01, ge=0)  # for leaky_relu
    convolutions: Literal[1, 2] = 2  # 3x3 convolutions in a block of the encoder
    residual: bool = False  # a block's input is added before its last activation


class Encoded(Blocks):
    """An encoder: of our own blocks (plain), or from keras.applications (parts.ENCODERS)."""

    encoder: Literal[("plain", *parts.ENCODERS)] = "plain"
    # The first weights: "imagenet" (downloaded by Keras), a file of the same keras.applications
    # network without its top (.weights.h5 or .h5), or the .weights.h5 of another radlake network,
    # from which layers of the same name and shapes are taken.
    weights: str | None = None
    # What stays as it is of an encoder of keras.applications: nothing, all of it, or its first N
    # stages, which end with the features at 1/2^N of the side.
    freeze: Literal["none", "all", 1, 2, 3, 4, 5] = "none"

    def clashes(self) -> Iterator[str]:
        if self.freeze != "none" and self.encoder == "plain":
            yield f"freeze={self.freeze}: encoder=plain cannot be frozen; use another encoder"
        elif self.freeze != "none" and self.weights is None:
            yield f"freeze={self.freeze} would keep random weights; give weights, too"
        if self.freeze == 1 and not self._has_half_size():
            yield f"freeze=1: encoder={self.encoder} has no features at 1/2; use 2 to 5, or all"

    def _has_half_size(self) -> bool:
        """Return whether the encoder has features at 1/2 of the side."""
        return self.encoder == "plain" or parts.ENCODERS[self.encoder].layers[0] is not None


class Decoder(Encoded):
    """What U-Net and U-Net++ have in common."""

    depth: int = Field(4, ge=1, le=8)  # number of poolings
    # Of the first level, doubled at each level below. Or a list, one number for each of the
    # depth + 1 levels; with an encoder of keras.applications only the depth levels of the decoder.
    filters: AtLeast1 | tuple[AtLeast1, ...] = 32
    max_filters: int | None = Field(None, ge=1)  # no level is wider
    # Filters of the decoder's levels where they differ from the encoder's.
    decoder_filters: tuple[AtLeast1, ...] | None = None
    decoder_convolutions: Literal[1, 2] = 2  # 3x3 convolutions in a block of the decoder
    # How the decoder doubles height and width. The *_conv ones add a 3x3 convolution; that and
    # transposed_3x3 are followed by activation and norm.
    upsampling: Literal[tuple(parts.UPSAMPLINGS)] = "transposed_2x2"
    dropout: float = Field(0.0, ge=0, lt=1)  # on the input of each block of the decoder
    # One more logit, "there is a lesion", from the encoder's deepest features.
    empty_head: bool = False
    # For pretraining, as `classes`, on a lake whose images have several findings each.
    findings: Findings = None

    def clashes(self) -> Iterator[str]:
        """Yield a message where the depth or the number of widths does not fit the encoder, and
        for findings beside classes."""
        yield from super().clashes()
        yield from clashes_of_findings(self.findings, getattr(self, "classes", None))
        if self.encoder != "plain" and self.depth > DEEPEST_ENCODER:
            yield f"depth={self.depth}: encoder={self.encoder} allows {DEEPEST_ENCODER} at most"
        if self.depth == 1 and not self._has_half_size():
            yield f"depth=1: encoder={self.encoder} has no features at 1/2; use 2 or more"
        for name, widths, num_levels in (
            ("filters", self.filters, self._num_levels()),
            ("decoder_filters", self.decoder_filters or None, self.depth),
        ):
            if isinstance(widths, tuple) and len(widths) != num_levels:
                cause = f"{name}={list(widths)}: depth={self.depth} with encoder={self.encoder}"
                yield f"{cause} needs {num_levels} numbers, not {len(widths)}"

    def _num_levels(self) -> int:
        return self.depth + (self.encoder == "plain")

    def widths(self) -> tuple[int, ...]:
        """Return the filters of each level of our own blocks, the first level first."""
        widths = self.filters
        if isinstance(widths, int):
            widths = [widths * 2**i for i in range(self._num_levels())]
        return tuple(min(filters, self.max_filters or filters) for filters in widths)

    def decoder_widths(self) -> tuple[int, ...]:
        """Return the filters of each level of the decoder, the first level first."""
        return self.decoder_filters or self.widths()[: self.depth]


class Unet(Decoder):
    """U-Net (trainer/models/unet.py): one logit per pixel."""

    kind: Literal["unet"]
    classes: Classes | None = None  # for pretraining, as in UnetPlusPlus
    skips: bool = True  # false: the decoder sees the deepest features alone


class UnetPlusPlus(Decoder):
    """U-Net++ (trainer/models/unetpp.py): one logit per pixel, or one per pixel and head."""

    kind: Literal["unetpp"]
    depth: int = Field(4, ge=1, le=5)  # L in the paper: number of poolings
    deep_supervision: bool = False  # a head on X(0,1) … X(0,L), each with its own loss
    # None: it segments. A number is for pretraining: the network up to X(0,L), without its heads,
    # becomes a classifier, and a segmenter of the same section can then start from its weights.
    classes: Classes | None = None

    def clashes(self) -> Iterator[str]:
        yield from super().clashes()
        if not self._has_half_size():
            cause = f"encoder={self.encoder} has no features at 1/2, of which X(0,1) is made"
            yield f"{cause}; use kind=unet, or another encoder"


class Vae(Section):
    """The VAE-regularised network (trainer/models/vae.py): one logit per pixel."""

    kind: Literal["vae"]
    filters: int = Field(32, ge=1, multiple_of=parts.GROUPS)  # of the first level; doubled below
    # Residual blocks at each level of the encoder, the first level first; each level but the first
    # halves the side.
    blocks: tuple[AtLeast1, ...] = Field((1, 2, 2, 4), min_length=2)
    dropout: float = Field(0.2, ge=0, lt=1)  # of whole channels, behind the first convolution
    latent: int = Field(128, ge=1)  # numbers that the VAE branch draws
    empty_head: bool = False  # as in a U-Net
    weights: str | None = None  # the .weights.h5 of another radlake network


class Classifier(Encoded):
    """An image classifier (trainer/models/classifier.py): one logit per image, or one per class or
    finding."""

    kind: Literal["classifier"]
    classes: Classes = 2
    # Names of the lake's findings, of which an image can show several: one logit each, in this
    # order. all: every finding of the lake; the config in a run's folder has their names instead.
    findings: Findings = None
    encoder: Literal[("plain", *parts.ENCODERS)] = "densenet121"
    # For the plain encoder: filters of its first level, doubled at each level below.
    filters: int = Field(16, ge=1)
    depth: int = Field(4, ge=1)  # for the plain encoder: number of poolings
    norm: Literal[tuple(parts.NORMS)] = "batch"  # for the plain encoder
    pooling: Literal["average", "lesion_map"] = "average"
    hidden: int = Field(0, ge=0)  # units of a layer between the average and the logit; 0: none
    dropout: Share = 0.0

    def clashes(self) -> Iterator[str]:
        yield from super().clashes()
        yield from clashes_of_findings(self.findings, self.classes if self.classes > 2 else None)
        if self.findings and self.pooling != "average":
            yield f"pooling={self.pooling}: findings need pooling=average"
        if self.hidden and self.pooling != "average":
            yield f"hidden={self.hidden} needs pooling=average"
        if self.classes > 2 and self.pooling != "average":
            yield f"classes={self.classes} needs pooling=average"


def clashes_of_findings(findings: Findings, classes: int | None) -> Iterator[str]:
    """Yield a message for findings beside classes, and for one that is named twice."""
    if findings and classes:
        yield f"findings and classes={classes} are two kinds of labels; give one of them"
    if findings and findings != ALL and len(set(findings)) < len(findings):
        yield f"findings={list(findings)} names one of them twice"


def num_logits(section: Unet | UnetPlusPlus | Classifier) -> int:
    """Return the number of logits that a classifier has per image: one per finding; one for two
    classes, else one per class."""
    if section.findings:
        return len(section.findings)
    return 1 if section.classes == 2 else section.classes


# model.kind: the section that it has.
NETWORKS = {"unet": Unet, "unetpp": UnetPlusPlus, "vae": Vae, "classifier": Classifier}
Network = Annotated[Union[tuple(NETWORKS.values())], Field(discriminator="kind")]  # noqa: UP007
