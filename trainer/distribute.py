"""The only file that knows CPU, GPU, one replica or many. In: what was asked for; out: a
tf.distribute strategy."""

import resource
from collections.abc import Callable

import tensorflow as tf

from lake import InputError

BFLOAT16_COMPUTE_CAPABILITY = (8, 0)  # Ampere; older GPUs emulate it slowly


def strategy(
    device: str, replicas: int | None, batch_size: int, accumulate: int = 1
) -> tf.distribute.Strategy:
    """One device or MirroredStrategy over several; raises InputError for what this machine does not
    have. `accumulate`: parts that a replica goes through one after the other."""
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise InputError(
            "train.device=gpu, but TensorFlow sees no GPU; install radlake[train-gpu] or use "
            "train.device=cpu"
        )
    kind = "GPU" if gpus and device != "cpu" else "CPU"
    count = replicas or (len(gpus) if kind == "GPU" else 1)
    if kind == "GPU" and count > len(gpus):
        raise InputError(f"train.replicas={count}, but this machine has {len(gpus)} GPUs")
    if batch_size % (count * accumulate):
        parts = f" in optimizer.accumulate={accumulate} parts" if accumulate > 1 else ""
        raise InputError(
            f"data.batch_size={batch_size} does not divide over {count} replicas{parts}; use a "
            f"multiple of {count * accumulate}"
        )
    if kind == "GPU":
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    elif count > 1:
        _divide_cpu(count)
    devices = [f"{kind}:{number}" for number in range(count)]
    print(
        f"{count} replica{'s' * (count > 1)} on {', '.join(devices)}; {batch_size // count} "
        f"images each a step{f', in {accumulate} parts' if accumulate > 1 else ''}"
    )
    return (
        tf.distribute.OneDeviceStrategy(devices[0])
        if count == 1
        else tf.distribute.MirroredStrategy(devices)
    )


def precision(asked: str, strategy: tf.distribute.Strategy) -> str:
    """Keras's policy name: bfloat16 where every GPU computes in it, float32 elsewhere."""
    if asked != "auto":
        return asked
    if not _is_on_gpus(strategy):
        return "float32"
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    return (
        "mixed_bfloat16"
        if capabilities and min(capabilities) >= BFLOAT16_COMPUTE_CAPABILITY
        else "float32"
    )


def compiles_gradients(asked: bool | str, strategy: tf.distribute.Strategy) -> bool:
    """Whether XLA compiles each replica's gradient function: on GPUs it gains, on two CPU cores it
    lost a third."""
    if asked == "auto":
        return _is_on_gpus(strategy)
    return asked


def _is_on_gpus(strategy: tf.distribute.Strategy) -> bool:
    return all("GPU" in device for device in strategy.extended.worker_devices)


def peak_memory_bytes(strategy: tf.distribute.Strategy) -> int:
    """Of the device that took most; of a CPU what the process took of the machine's."""
    if not _is_on_gpus(strategy):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts KiB
    names = [device.rpartition("device:")[2] for device in strategy.extended.worker_devices]
    return max(tf.config.experimental.get_memory_info(name)["peak"] for name in names)


def summed(strategy: tf.distribute.Strategy, values: dict) -> dict:
    """Each of the replicas' values, summed over the replicas."""
    return {
        name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
        for name, value in values.items()
    }


def total(strategy: tf.distribute.Strategy) -> Callable:
    """value -> its sum over the replicas, on each of them and with a gradient, inside a replica's
    step."""
    if strategy.num_replicas_in_sync == 1:
        return lambda value: value
    return lambda value: tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, value
    )


def _divide_cpu(count: int) -> None:
    """Logical CPU devices: several replicas on one machine, for tests and for rehearsing a GPU
    job."""
    [cpu] = tf.config.list_physical_devices("CPU")
    existing = tf.config.get_logical_device_configuration(cpu)
    if existing is not None and len(existing) >= count:
        return
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
