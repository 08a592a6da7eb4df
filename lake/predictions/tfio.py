"""tensorflow-io, whose DICOM decoder works with TensorFlow 2.17 alone: in an environment of its
own, requirements/tfio.txt."""

from lake import InputError

# What a client does before it loads such an export: TensorFlow knows the operations then.
LOADING = "from tensorflow_io.python.ops import core_ops; dir(core_ops)"
ENVIRONMENT = (
    "tensorflow-io 0.37 works with TensorFlow 2.17 only, so in an environment of its own: "
    "python -m venv .venv-tfio; .venv-tfio/bin/pip install -r requirements/tfio.txt"
)


def load() -> None:
    """Do what LOADING does; raise InputError where tensorflow-io is not installed, or beside
    another TensorFlow."""
    try:
        from tensorflow_io.python.ops import core_ops

        dir(core_ops)  # loads them, which fails beside another TensorFlow
    except (ImportError, NotImplementedError) as error:
        raise InputError(f"no tensorflow-io here: {str(error)[:100]}; {ENVIRONMENT}") from None
