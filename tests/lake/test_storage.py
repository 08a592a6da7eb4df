"""lake/storage.py without a server; with one: test_gcs.py."""

import pytest
import tensorflow as tf

from lake import InputError, storage
from trainer.prediction import input_files


def failed(error: Exception) -> tf.data.Dataset:
    def read(_):
        raise error

    return tf.data.Dataset.range(1).map(lambda n: tf.numpy_function(read, [n], tf.string))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (tf.errors.PermissionDeniedError, "refuses: 403 reading gs://b/a.dcm; who runs this needs"),
        (tf.errors.AbortedError, "does not answer: 403 reading gs://b/a.dcm; repeat the command"),
    ],
)
def test_a_refusal_is_explained_also_from_within_tf_data(error, said):
    raised = error(None, None, "403\n\t reading gs://b/a.dcm")
    with pytest.raises(InputError, match=f"^Cloud Storage {said}"), storage.explained():
        raise raised
    with pytest.raises(InputError, match=f"^Cloud Storage {said}"), storage.explained():
        list(failed(raised))


@pytest.mark.parametrize("text", ["gs://b/a.dcm", "b/a.dcm: PermissionDenied"])
def test_an_error_of_another_kind_passes(text):
    with pytest.raises(ValueError, match=text), storage.explained():
        raise ValueError(text)
    other = tf.errors.FailedPreconditionError(None, None, f"not there: {text}")
    with pytest.raises(tf.errors.FailedPreconditionError), storage.explained():
        raise other


def test_volumes_are_not_read_from_a_bucket():
    with pytest.raises(InputError, match="--input gs://b/ct: volumes are read from a disk"):
        input_files.list_files(["gs://b/ct"], is_ct=True)
