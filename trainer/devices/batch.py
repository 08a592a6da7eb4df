"""A batch divided over replicas. No TensorFlow, as launchers ask before they rent a machine."""

from lake import InputError


def images_per_replica(batch_size: int, accumulate: int, replicas: int, devices: str) -> int:
    """Return how many images of a batch each replica gets, which goes through them in `accumulate`
    parts; raise InputError where the parts are not equal. `devices`: what messages call them."""
    if batch_size % (replicas * accumulate):
        parts = f" in optimizer.accumulate={accumulate} parts" if accumulate > 1 else ""
        raise InputError(
            f"data.batch_size={batch_size} does not divide over {replicas} replicas{parts} "
            f"({devices}); use a multiple of {replicas * accumulate}"
        )
    return batch_size // replicas


def sentence(batch_size: int, accumulate: int, replicas: int, devices: str) -> str:
    """Return what a log says of it; raises InputError as images_per_replica does."""
    images = images_per_replica(batch_size, accumulate, replicas, devices)
    parts = f", in {accumulate} parts" if accumulate > 1 else ""
    return (
        f"{replicas} replica{'s' * (replicas > 1)} on {devices}; {images} images each per step"
        f"{parts}"
    )
