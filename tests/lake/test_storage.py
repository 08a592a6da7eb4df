"""lake/storage.py without a server; with one: test_gcs.py."""

import pytest
import tensorflow as tf
from google.api_core.exceptions import BadRequest, Forbidden, NotFound

from lake import InputError, storage
from trainer.prediction import input_files


def fail(error: Exception) -> tf.data.Dataset:
    def read(_):
        raise error

    return tf.data.Dataset.range(1).map(lambda n: tf.numpy_function(read, [n], tf.string))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tf.errors.PermissionDeniedError, "refuses: 403 reading gs://b/a.dcm. Whoever runs this"),
        (tf.errors.AbortedError, "does not answer: 403 reading gs://b/a.dcm; repeat the command"),
    ],
)
def test_a_refusal_is_explained_also_from_within_tf_data(kind, message):
    error = kind(None, None, "403\n\t reading gs://b/a.dcm")
    with pytest.raises(InputError, match=f"^Cloud Storage {message}"), storage.explain_errors():
        raise error
    with pytest.raises(InputError, match=f"^Cloud Storage {message}"), storage.explain_errors():
        list(fail(error))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Forbidden("no access to b"), "^Cloud Storage refuses: 403 no access to b. Whoever"),
        (NotFound("b"), "^404 b; no bucket\\?$"),
        (
            OSError("Forbidden: https://b\nno access"),
            "^Cloud Storage refuses: Forbidden: https://b",
        ),
    ],
)
def test_a_refusal_of_other_clients_is_explained(error, message):
    with pytest.raises(InputError, match=message), storage.explain_errors():
        raise error


@pytest.mark.parametrize("text", ["gs://b/a.dcm", "b/a.dcm: PermissionDenied"])
def test_an_error_of_another_kind_passes(text):
    with pytest.raises(ValueError, match=text), storage.explain_errors():
        raise ValueError(text)
    others = tf.errors.FailedPreconditionError(None, None, f"not there: {text}"), BadRequest(text)
    for other in (*others, OSError(text), FileNotFoundError(text)):
        with pytest.raises(type(other)), storage.explain_errors():
            raise other


def test_a_file_that_is_not_finished_leaves_the_one_that_was_there(tmp_path):
    path = tmp_path / "a.txt"
    storage.write(path, b"first")
    with pytest.raises(ValueError, match="half"), storage.whole_file(path) as file:
        file.write_bytes(b"sec")
        raise ValueError("half")
    assert path.read_bytes() == b"first"
    storage.write(path, b"second")
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]


def test_volumes_are_not_read_from_a_bucket():
    with pytest.raises(InputError, match="--input gs://b/ct: volumes are read from a disk"):
        input_files.list_files(["gs://b/ct"], is_ct=True)
