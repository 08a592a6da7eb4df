"""The tf.distribute strategy of a run, and what depends on its devices: precision, compilation,
memory. CPU, GPU and TPU are told apart in this file alone."""

import functools
import os
import resource
import signal
import threading
from collections.abc import Callable

import tensorflow as tf

from lake import InputError
from trainer.devices import allocator, batch, slurm, workers

BFLOAT16_COMPUTE_CAPABILITY = (8, 0)  # Ampere; older GPUs emulate it slowly


def create_strategy(
    device: str,
    num_replicas: int | None,
    batch_size: int,
    accumulate: int = 1,
    worker: workers.Worker = workers.ALONE,
    worker_minutes: float = 10.0,
) -> tf.distribute.Strategy:
    """Return the strategy of one device or several, of one worker or many; raise InputError for a
    device that is not there.

    `num_replicas`: per worker; `accumulate`: parts that a replica goes through one after the other;
    `worker_minutes`: how long the other workers may take to come.
    """
    kind = _kind(device)
    if kind == "TPU":
        strategy = _tpu_strategy(num_replicas, worker)
        count = strategy.num_replicas_in_sync
        print(batch.sentence(batch_size, accumulate, count, "TPU cores"), flush=True)
        return strategy
    if kind == "GPU":
        _leave_gpus_to_other_tasks(worker)
    count = _local_replicas(kind, num_replicas, worker)
    devices = [f"{kind}:{number}" for number in range(count)]
    device_names = ", ".join(devices)
    if worker.count > 1:
        device_names += f" of each of {worker.count} workers"
    print(batch.sentence(batch_size, accumulate, count * worker.count, device_names), flush=True)
    if kind == "GPU":
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    elif count > 1:
        _divide_cpu(count)
    if worker.count > 1:
        return _multi_worker_strategy(worker, worker_minutes, count if kind == "GPU" else 0)
    if count > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])


def _kind(device: str) -> str:
    """Return TPU, GPU or CPU; `auto` takes the first that TensorFlow sees. Raises InputError for a
    GPU that it does not see."""
    if device == "tpu":
        return "TPU"  # TensorFlow sees its cores when it has been initialised
    for kind in ("TPU", "GPU"):
        if device in ("auto", kind.lower()) and tf.config.list_physical_devices(kind):
            return kind
    if device == "gpu":
        raise InputError(
            "train.device=gpu, but TensorFlow sees no GPU; install radlake[train-gpu] or use "
            "train.device=cpu"
        )
    return "CPU"


def _leave_gpus_to_other_tasks(worker: workers.Worker) -> None:
    """Let TensorFlow use this worker's part of the machine's GPUs alone, where srun has started
    several workers that see all of them."""
    gpus = tf.config.list_physical_devices("GPU")
    place = worker.local_number, worker.num_local
    own_gpus = [gpus[number] for number in slurm.gpus_of_task(len(gpus), *place, os.environ)]
    if own_gpus != tf.config.get_visible_devices("GPU"):  # can be set before their first use alone
        tf.config.set_visible_devices(own_gpus, "GPU")


def _local_replicas(kind: str, num_replicas: int | None, worker: workers.Worker) -> int:
    """Return the number of this worker's replicas; raise InputError where it cannot have them."""
    num_devices = len(tf.config.get_visible_devices(kind))
    if kind == "GPU" and (num_replicas or 0) > num_devices:
        raise InputError(f"train.replicas={num_replicas}, but this machine has {num_devices} GPUs")
    # MultiWorkerMirroredStrategy takes a machine's GPUs, or its one CPU.
    default_replicas = num_devices if kind == "GPU" else 1
    if worker.count > 1 and num_replicas not in (None, default_replicas):
        raise InputError(
            f"train.replicas={num_replicas}: with several workers, each has {default_replicas} "
            f"on this machine's {kind}; leave it out, or start more workers"
        )
    return num_replicas or default_replicas


def has_several_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@functools.cache  # TensorFlow can connect to a cluster once in a process
def _multi_worker_strategy(
    worker: workers.Worker, minutes: float, num_gpus: int
) -> tf.distribute.Strategy:
    """Return the strategy of several workers when all of them have come; raise InputError where
    they do not. `num_gpus`: of this worker."""
    workers.wait_for_all(worker, minutes)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(_resolver(worker, num_gpus))
    except (tf.errors.OpError, RuntimeError) as error:
        raise InputError(
            f"worker {worker.number} cannot join the cluster at {worker.address}: "
            f"{str(error).splitlines()[0]}; is the port free, and were all workers started "
            f"{worker.start_rule}?"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # TensorFlow's cluster has installed a handler of its own; Python still remembers ours.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def _resolver(
    worker: workers.Worker, num_gpus: int
) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Return what tells TensorFlow where the workers are."""
    if worker.source == workers.VARIABLE:
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(worker.reachable_addresses)}),
        task_type="worker",
        task_id=worker.number,
        num_accelerators={"GPU": num_gpus},
        rpc_layer="grpc",
    )


def _tpu_strategy(num_replicas: int | None, worker: workers.Worker) -> tf.distribute.Strategy:
    """Return the strategy of all cores of this TPU VM; raise InputError where it has none."""
    if worker.count > 1:
        raise InputError(
            f"train.device=tpu is one host's TPU, but {worker.source} names {worker.count} "
            f"workers; {'start one' if worker.source == workers.SRUN else 'unset it'}"
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise InputError(
            f"train.device=tpu, but there is no TPU to use here "
            f"({str(error).splitlines()[0][:200]}); run on a TPU VM with tensorflow-tpu, or use "
            f"train.device=auto"
        ) from error
    count = strategy.num_replicas_in_sync
    if num_replicas not in (None, count):
        raise InputError(
            f"train.replicas={num_replicas}, but this TPU has {count} cores, which work together; "
            f"leave it out"
        )
    return strategy


def distribute(strategy: tf.distribute.Strategy, batches: tf.data.Dataset):
    """Return the batches of one worker, each cut into a part per replica of this worker."""
    worker = workers.from_environment()
    if worker.count == 1:
        return strategy.experimental_distribute_dataset(batches)
    # experimental_distribute_dataset would cut a batch among the replicas of all workers, but each
    # worker reads records of its own, and its batch is for its own replicas.
    spec = tf.nest.flatten(batches.element_spec)[0]
    replica_batch_size = spec.shape[0] * worker.count // strategy.num_replicas_in_sync
    return strategy.distribute_datasets_from_function(
        lambda _: batches.rebatch(replica_batch_size, drop_remainder=True)
    )


def policy_name(precision: str, strategy: tf.distribute.Strategy) -> str:
    """Return Keras's name of a precision; auto: bfloat16 on TPUs and where every GPU computes in
    it, float32 elsewhere."""
    if precision != "auto":
        return precision
    if _is_on(strategy, "TPU"):
        return "mixed_bfloat16"
    if not _is_on(strategy, "GPU"):
        return "float32"
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    has_bfloat16 = capabilities and min(capabilities) >= BFLOAT16_COMPUTE_CAPABILITY
    return "mixed_bfloat16" if has_bfloat16 else "float32"


def compiles_gradients(jit: bool | str, strategy: tf.distribute.Strategy) -> bool:
    """Return whether XLA compiles each replica's gradient function: it makes GPUs faster, and two
    CPU cores a third slower. On a TPU strategy.run compiles everything, and nothing is nested."""
    if _is_on(strategy, "TPU"):
        return False
    return _is_on(strategy, "GPU") if jit == "auto" else jit


def _is_on(strategy: tf.distribute.Strategy, kind: str) -> bool:
    if strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy():
        return False  # TensorFlow's default one, which does not know its devices
    return all(kind in device for device in strategy.extended.worker_devices)


def prepare_memory(feature_bytes: int, strategy: tf.distribute.Strategy | None = None) -> None:
    """Prepare this process's memory for a network whose largest features take so many bytes, where
    a CPU computes it; without a strategy, TensorFlow's first device does."""
    is_on_cpu = _kind("auto") == "CPU" if strategy is None else _is_on(strategy, "CPU")
    if is_on_cpu:
        allocator.keep_freed_memory(feature_bytes)


def peak_memory_bytes(strategy: tf.distribute.Strategy) -> int:
    """Return the peak bytes of the fullest device; on a CPU the process's peak."""
    if not _is_on(strategy, "GPU"):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts KiB
    names = [device.rpartition("device:")[2] for device in strategy.extended.worker_devices]
    return max(tf.config.experimental.get_memory_info(name)["peak"] for name in names)


def sum_over_replicas(strategy: tf.distribute.Strategy, values: dict) -> dict:
    """Return the replicas' values, each summed over the replicas."""
    return {
        name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
        for name, value in values.items()
    }


def replica_sum(strategy: tf.distribute.Strategy) -> Callable:
    """Return value -> its sum over the replicas, on each of them and with a gradient; the function
    is called inside a replica's step."""
    if strategy.num_replicas_in_sync == 1:
        return lambda value: value
    return lambda value: tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, value
    )


def _divide_cpu(count: int) -> None:
    """Make logical CPU devices: several replicas on one machine, for tests and for rehearsing a GPU
    job."""
    [cpu] = tf.config.list_physical_devices("CPU")
    logical_devices = tf.config.get_logical_device_configuration(cpu)
    if logical_devices is not None and len(logical_devices) >= count:
        return
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
