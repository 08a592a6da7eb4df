"""A batch divided over replicas. No TensorFlow, as launchers ask before they rent a machine."""

from lake import InputError


def images_per_replica(batch_size: int, accumulate: int, num_replicas: int, devices: str) -> int:
    """Return the number of a batch's images that each replica gets, which goes through them in
    `accumulate` parts; raise InputError where the parts are not equal. `devices`: their names in
    messages."""
    if batch_size % (num_replicas * accumulate):
        parts = f" in optimizer.accumulate={accumulate} parts" if accumulate > 1 else ""
        raise InputError(
            f"data.batch_size={batch_size} does not divide over {num_replicas} replicas{parts} "
            f"({devices}); use a multiple of {num_replicas * accumulate}"
        )
    return batch_size // num_replicas


def sentence(batch_size: int, accumulate: int, num_replicas: int, devices: str) -> str:
    """Return the sentence of a log on how a batch is divided; raises InputError as
    images_per_replica does."""
    num_images = images_per_replica(batch_size, accumulate, num_replicas, devices)
    parts = f", in {accumulate} parts" if accumulate > 1 else ""
    replicas = "1 replica" if num_replicas == 1 else f"{num_replicas} replicas"
    return f"{replicas} on {devices}; {num_images} images each per step{parts}"
