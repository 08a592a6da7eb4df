"""Where a run's time and memory go on this machine, in images per second; one batch again and again
against the lake's batches.

    reading        the lake's stored records, as bytes, by one reader
    input          the run's batches: shuffled, decoded (or from data.cache), with draws
    augmentation   one batch's, on the first device, compiled as in training
    step           augmentation, gradient, all-reduce and update of one batch, on every replica
    training       the same on the lake's batches

The part of the time that a step waits for its input is 1 - training / step. On a CPU both share its
cores, and part of it is contention for them. Several numbers of replicas and several batches are
measured in processes of their own: logical devices are divided once, and a process's peak memory
never goes down.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from lake import InputError, storage
from trainer.config.run import Config
from trainer.data import damage
from trainer.data.batches import stored_records
from trainer.devices import workers
from trainer.devices.strategy import compiles_gradients, peak_memory_bytes, policy_name
from trainer.training.run import batches_from, build_run, cached_images
from trainer.training.step import compile_steps, prepare_batch

ROUNDS = 3  # per measurement, in turn; the best counts, because a machine may be shared
USABLE = 0.92  # of a device's memory: the rest is the driver's and lost between tensors
GIGABYTE = 1e9


def report(
    config: Config,
    overrides: list[str],
    config_path: str,
    num_steps: int,
    replica_numbers: list[int],
    memory_gb: list[float],
    json_path: Path | None,
) -> str:
    """Measure, and return the table; `num_steps`: per round. Raises InputError for a config with
    stages, and where a measurement fails.

    `replica_numbers`: of replicas, to measure one after the other, each replica with the config's
    batch; `memory_gb`: sizes of devices whose largest batch is to be predicted.
    """
    if json_path:
        storage.check_writable(json_path.parent)
    if config.stages:
        raise InputError("benchmark measures one run; give a config without stages")
    options = ["--config", config_path, "--lake", config.lake, *overrides]
    options += ["--steps", str(num_steps)]
    if replica_numbers:
        batch = config.data.batch_size
        rows = [
            _measure_in_process(
                [*options, f"--train.replicas={count}", f"--data.batch_size={batch * count}"]
            )
            for count in replica_numbers
        ]
    else:
        with damage.locate_errors(config, config.lake):
            rows = [measure(config, num_steps)]
    result, lines = {"runs": rows}, [_table(rows)]
    if memory_gb:
        result["memory"] = largest_batches(options, memory_gb)
        lines.append(_memory_lines(result["memory"]))
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    return "\n".join(lines)


def measure(config: Config, num_steps: int) -> dict:
    """Return the row of a config, measured in this process: rates in images per second, memory in
    GB."""
    run = build_run(config)
    strategy, batch_size = run.strategy, config.data.batch_size
    built_gb = peak_memory_bytes(strategy) / GIGABYTE
    take_steps = compile_steps(run)
    images = cached_images(run)
    lake_batches = batches_from(run._replace(worker=workers.ALONE), 0, 1, images=images).repeat()
    one_batch = lake_batches.take(1).cache()
    [batch] = one_batch
    augmentation = tf.function(
        lambda batch: prepare_batch(batch, config.augment),
        autograph=False,
        jit_compile=compiles_gradients(config.train.jit, strategy),
    )
    records = stored_records(run.split).repeat()
    iterators = [
        iter(strategy.experimental_distribute_dataset(batches))
        for batches in (one_batch.repeat(), lake_batches)
    ]

    def augment_batch() -> None:
        for _ in range(num_steps):
            images, _ = augmentation(batch)
        images.numpy()

    def train_on(iterator) -> None:
        take_steps(iterator, tf.constant(num_steps))["loss"].numpy()

    seconds = best_seconds(
        {
            "reading": lambda: time_elements(records, num_steps * batch_size),
            "input": lambda: time_elements(lake_batches, num_steps),
            "augmentation": lambda: time_call(augment_batch),
            "step": lambda: time_call(lambda: train_on(iterators[0])),
            "training": lambda: time_call(lambda: train_on(iterators[1])),
        }
    )
    rates = {name: num_steps * batch_size / best for name, best in seconds.items()}
    return {
        "network": config.model.kind,
        "parameters": run.network.count_params(),
        "side": config.data.side,
        "batch_size": batch_size,
        "precision": policy_name(config.train.precision, strategy),
        "replicas": strategy.num_replicas_in_sync,
        "devices": list(strategy.extended.worker_devices),
        "images_per_second": rates,
        "input_share": max(0.0, 1 - rates["training"] / rates["step"]),
        "built_gb": built_gb,
        "peak_gb": peak_memory_bytes(strategy) / GIGABYTE,
    }


def time_call(call: Callable) -> float:
    """Return the seconds that a call takes."""
    start_time = time.perf_counter()
    call()
    return time.perf_counter() - start_time


def time_elements(dataset: tf.data.Dataset, count: int) -> float:
    """Return the seconds that `count` elements take after the first, which also waits for files to
    open."""
    elements = iter(dataset)
    next(elements)
    return time_call(lambda: [next(elements) for _ in range(count)])


def best_seconds(calls: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return the seconds of each call's best round; they take turns, and the first round, which
    compiles, does not count."""
    rounds = [{name: call() for name, call in calls.items()} for _ in range(1 + ROUNDS)]
    return {name: min(seconds[name] for seconds in rounds[1:]) for name in calls}


def largest_batches(options: list[str], memory_gb: list[float]) -> dict:
    """Return the largest batch that fits into each device's memory, predicted by a line through the
    peaks of one replica with one image and with two."""
    options = [*options, "--train.replicas=1", "--optimizer.accumulate=1"]
    one_gb, two_gb = (
        _measure_in_process([*options, f"--data.batch_size={count}"])["peak_gb"] for count in (1, 2)
    )
    largest = images_that_fit(one_gb, two_gb, memory_gb)
    return {"gb_of_one": one_gb, "gb_of_each_more": two_gb - one_gb, "largest": largest}


def images_that_fit(one_gb: float, two_gb: float, memory_gb: list[float]) -> dict[str, int]:
    """Return {GB of memory: images that fit}; `one_gb`, `two_gb`: peaks with one and two images.
    Raises InputError where the second takes no more memory."""
    more_gb = two_gb - one_gb
    if more_gb <= 0:
        raise InputError(
            f"a second image took no more memory ({one_gb:.2f} and {two_gb:.2f} GB at the peak): "
            f"too little to predict from; give a larger --data.side"
        )
    return {f"{gb:g}": max(0, int(1 + (gb * USABLE - one_gb) // more_gb)) for gb in memory_gb}


def _measure_in_process(options: list[str]) -> dict:
    """Return the row that `measure` returns in a process of its own; raise InputError where it
    fails."""
    with storage.temporary_folder() as folder:
        path = Path(folder, "result.json")
        command = [sys.executable, "-m", "trainer.task", "benchmark", *options]
        process = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True)
        if process.returncode:
            raise InputError(
                f"{' '.join(options)}: {process.stderr.strip().removeprefix('error: ')}"
            )
        [row] = json.loads(path.read_text())["runs"]
    return row


def _table(rows: list[dict]) -> str:
    """Return the table of what `measure` returned, one line per number of replicas."""
    first_row = rows[0]
    lines = [
        f"{first_row['network']} with {first_row['parameters']:,} parameters "
        f"at {first_row['side']} px, {first_row['precision']}, "
        f"on {first_row['devices'][0].partition('device:')[2]}; "
        f"images per second",
        f"{'replicas':>8}{'batch':>7}"
        + "".join(f"{name:>14}" for name in first_row["images_per_second"])
        + f"{'per replica':>12}{'scaling':>9}{'input wait':>12}{'peak GB':>9}",
    ]
    first_rate = first_row["images_per_second"]["training"] / first_row["replicas"]
    for row in rows:
        rates = row["images_per_second"]
        rate = rates["training"] / row["replicas"]
        lines.append(
            f"{row['replicas']:>8}{row['batch_size']:>7}"
            + "".join(f"{rate:>14,.1f}" for rate in rates.values())
            + f"{rate:>12,.1f}{rate / first_rate:>9.2f}{row['input_share']:>12.1%}"
            + f"{row['peak_gb']:>9.2f}"
        )
    return "\n".join(lines)


def _memory_lines(memory: dict) -> str:
    """Return two lines about what `largest_batches` returned."""
    sizes = "  ".join(f"{gb} GB: {batch}" for gb, batch in memory["largest"].items())
    return (
        f"memory of one replica: {memory['gb_of_one']:.2f} GB with one image, "
        f"{memory['gb_of_each_more']:.2f} GB with each one more\n"
        f"largest batch of a replica, predicted from these with {USABLE:.0%} of the memory "
        f"usable: {sizes}"
    )
