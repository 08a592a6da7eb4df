"""The roles that a project must give before a launch. In: who needs which. Out: sentences for a
launcher's plan. The names are those of Google Cloud IAM.
"""

from collections.abc import Sequence

BUCKETS = "roles/storage.objectUser on the buckets"
IMAGE = "roles/artifactregistry.reader on the image's repository"
VERTEX, TPU = "roles/aiplatform.user", "roles/tpu.admin"
DATAFLOW, DATAFLOW_WORKER = "roles/dataflow.developer", "roles/dataflow.worker"
TENSORBOARD = f"{VERTEX} for the TensorBoard"
COMPUTE_ENGINE = "the project's Compute Engine account"  # of machines without --service_account


def act_as(account: str) -> str:
    """Return the role of whoever starts machines that act as a service account."""
    return f"roles/iam.serviceAccountUser on {account}"


def sentences(launcher: Sequence[str], account: str, machines: Sequence[str]) -> list[str]:
    """Return the roles of whoever launches, and those of the machines' account, a sentence each."""
    return [
        f"roles of whoever launches: {', '.join(launcher)}",
        f"roles of {account}: {', '.join(machines)}",
    ]
