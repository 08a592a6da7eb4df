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
    mode: str  # the mode of imagenet_utils.preprocess_input: caffe, tf or torch
    layers: tuple[str, ...]  # that give the features at 1/2, 1/4, 1/8, 1/16, 1/32 of the side
    full_size: str | None = None  # the layer that gives those at the side itself, if there is one
    # The layers that give the deepest features of a U-Net of depth 1, 2, …, where these are not the
    # features of the skips.
    bottoms: tuple[str, ...] | None = None
    # The first layer that is used; those before it are preprocessing. None: all are used.
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
}
