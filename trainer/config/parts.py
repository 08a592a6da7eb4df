"""The parts of networks, as tables: the key of each row is a name that a config may use.

No Keras here: the sections of a config list the names, and trainer/models/{blocks,encoders}.py make
layers of the rows.
"""

from typing import NamedTuple

GROUPS = 8  # the groups of group normalisation, at every width
# The momentum of the moving statistics. Keras's 0.99 still remembers the first weights after 300
# steps, so that validation lags behind training; 0.9 is PyTorch's.
MOMENTUM = 0.9

# name: (class in keras.layers, its arguments), or None for no layer.
NORMS = {
    "none": None,
    "batch": ("BatchNormalization", {"momentum": MOMENTUM}),
    "sync_batch": ("BatchNormalization", {"momentum": MOMENTUM, "synchronized": True}),
    "group": ("GroupNormalization", {"groups": GROUPS}),
    "instance": ("GroupNormalization", {"groups": -1}),  # a group for each channel
}
ACTIVATIONS = {
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {}),  # with the config's negative_slope
    "elu": ("ELU", {}),
    "swish": ("Activation", {"activation": "silu"}),
}


class Upsampling(NamedTuple):
    """A layer that doubles height and width, and what follows it."""

    layer: str  # a class in keras.layers; Conv2DTranspose also sets the number of channels
    options: dict  # the arguments of the class
    convolution: bool = False  # whether a 3x3 convolution follows, which sets the channels
    is_activated: bool = False  # whether activation and norm follow


NEAREST = {"interpolation": "nearest"}
# In float32: XLA's gradient of a bfloat16 resize is float32, which the layer before it refuses
# (TensorFlow 2.21).
BILINEAR = {"interpolation": "bilinear", "dtype": "float32"}
UPSAMPLINGS = {
    "transposed_2x2": Upsampling("Conv2DTranspose", {"kernel_size": 2, "strides": 2}),
    "transposed_3x3": Upsampling(
        "Conv2DTranspose", {"kernel_size": 3, "strides": 2, "padding": "same"}, is_activated=True
    ),
    "nearest": Upsampling("UpSampling2D", NEAREST),
    "bilinear": Upsampling("UpSampling2D", BILINEAR),
    "nearest_conv": Upsampling("UpSampling2D", NEAREST, convolution=True, is_activated=True),
    "bilinear_conv": Upsampling("UpSampling2D", BILINEAR, convolution=True, is_activated=True),
}


class Encoder(NamedTuple):
    """A network of keras.applications, and the layers that give the features of each size."""

    application: str  # a class in keras.applications
    # The mode of imagenet_utils.preprocess_input: caffe, tf or torch. None: the network's own
    # layers before `start` are the preprocessing.
    mode: str | None
    # That give the features at 1/2, 1/4, 1/8, 1/16, 1/32 of the side; "into NAME" is what enters
    # the layer NAME. The first is None where a network has no features at 1/2.
    layers: tuple[str | None, ...]
    full_size: str | None = None  # the layer that gives those at the side itself, if there is one
    # The layers that give the deepest features of a U-Net of depth 1, 2, …, where these are not the
    # features of the skips.
    bottoms: tuple[str, ...] | None = None
    # The first layer behind the network's own preprocessing. None: it has none.
    start: str | None = None
    min_side: int = 32  # the smallest image that keras.applications takes


DENSENET = ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu")
# The tenth and the seventeenth layer have no name in keras.applications; encoders.py gives them
# these.
INCEPTION_RESNET = ("layer_9", "layer_16", "block35_10_ac", "block17_20_ac", "conv_7b_ac")
XCEPTION = (
    *("block2_sepconv2_bn", "block3_sepconv2_bn", "block4_sepconv2_bn", "block13_sepconv2_bn"),
    "block14_sepconv2_act",
)
EFFICIENTNET = (*(f"block{block}a_expand_activation" for block in (2, 3, 4, 6)), "top_activation")
EFFICIENTNET_V2 = (
    *("into block2a_expand_conv", "into block3a_expand_conv"),
    *("block4a_expand_activation", "block6a_expand_activation", "top_activation"),
)
RESNET_50_V2 = (2, 3), (3, 4), (4, 6)  # the stages that end at 1/8, 1/16, 1/32, and their blocks
MOBILENET_V2 = (*(f"block_{n}_expand_relu" for n in (1, 3, 6, 13)), "out_relu")
# The widened features that each depthwise convolution of stride 2 takes, as in MobileNetV2; Small's
# first block does not widen.
MOBILENET_V3_SMALL = (
    "into expanded_conv_depthwise_pad",
    *(f"into expanded_conv_{n}_depthwise_pad" for n in (1, 3, 8)),
    "layer_156",
)
MOBILENET_V3_LARGE = (
    *(f"into expanded_conv_{n}_depthwise_pad" for n in (1, 3, 6, 12)),
    "layer_186",
)


def resnet(blocks: tuple[int, int, int, int]) -> tuple[str, ...]:
    """Return the ends of a ResNet's stages, of which each has that many blocks."""
    return "conv1_relu", *(f"conv{i}_block{n}_out" for i, n in enumerate(blocks, 2))


def convnext(name: str, last_layer: str) -> tuple[str | None, ...]:
    """Return the ends of a ConvNeXt's stages; its stem goes from 1/1 to 1/4 in one step."""
    ends = (f"into convnext_{name}_downsampling_block_{i}" for i in range(3))
    return None, *ends, last_layer


ENCODERS = {
    # Simonyan & Zisserman 2014 (arXiv:1409.1556)
    "vgg16": Encoder(
        "VGG16",
        "caffe",
        ("block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"),
        full_size="block1_conv2",
        bottoms=tuple(f"block{block}_pool" for block in range(1, 6)),
    ),
    # Huang et al. 2017 (arXiv:1608.06993)
    "densenet121": Encoder("DenseNet121", "torch", DENSENET),
    "densenet169": Encoder("DenseNet169", "torch", DENSENET),
    "densenet201": Encoder("DenseNet201", "torch", DENSENET),
    # Chollet 2017 (arXiv:1610.02357)
    "xception": Encoder("Xception", "tf", XCEPTION, min_side=71),
    # Szegedy et al. 2017 (arXiv:1602.07261)
    "inception_resnet_v2": Encoder("InceptionResNetV2", "tf", INCEPTION_RESNET, min_side=75),
    # Tan & Le 2019 (arXiv:1905.11946). Keras puts a preprocessing into the network, one for
    # ImageNet's weights and another where there are no weights; `start` leaves both out.
    **{
        f"efficientnetb{n}": Encoder(
            f"EfficientNetB{n}", "torch", EFFICIENTNET, start="stem_conv_pad"
        )
        for n in range(8)
    },
    # He et al. 2015 (arXiv:1512.03385), and 2016 (arXiv:1603.05027), whose blocks begin with norm
    # and activation, and whose stages end with the stride.
    "resnet50": Encoder("ResNet50", "caffe", resnet((3, 4, 6, 3))),
    "resnet101": Encoder("ResNet101", "caffe", resnet((3, 4, 23, 3))),
    "resnet50v2": Encoder(
        "ResNet50V2",
        "tf",
        ("conv1_conv", *(f"conv{i}_block{n}_preact_relu" for i, n in RESNET_50_V2), "post_relu"),
    ),
    # Sandler et al. 2018 (arXiv:1801.04381), Howard et al. 2019 (arXiv:1905.02244)
    "mobilenetv2": Encoder("MobileNetV2", "tf", MOBILENET_V2),
    "mobilenetv3_small": Encoder("MobileNetV3Small", None, MOBILENET_V3_SMALL, start="conv"),
    "mobilenetv3_large": Encoder("MobileNetV3Large", None, MOBILENET_V3_LARGE, start="conv"),
    # Tan & Le 2021 (arXiv:2104.00298). B0 … B3 and S, M expect different ranges.
    **{
        f"efficientnetv2{size.lower()}": Encoder(
            f"EfficientNetV2{size}", None, EFFICIENTNET_V2, start="stem_conv"
        )
        for size in ("B0", "B1", "B2", "B3", "S", "M")
    },
    # Liu et al. 2022 (arXiv:2201.03545)
    "convnext_tiny": Encoder(
        "ConvNeXtTiny", None, convnext("tiny", "layer_132"), start="convnext_tiny_stem"
    ),
    "convnext_small": Encoder(
        "ConvNeXtSmall", None, convnext("small", "layer_258"), start="convnext_small_stem"
    ),
}
