"""Where a run's time and memory go, in images a second on this machine; one batch again and again
against the lake's own.

    reading        the lake's stored records, as bytes, by one reader
    input          the run's own batches: shuffled, decoded (or from data.cache), with draws
    augmentation   of one batch, on the first device, compiled as in training
    step           augmentation, gradient, all-reduce and update of one batch, on every replica
    training       the same on the lake's batches

What a step waits for its input is 1 - training / step. On a CPU both share its cores, and a part of
it is their quarrel. Several numbers of replicas and several batches are measured in processes of
their own: logical devices are divided once, and a process remembers its peak memory.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import tensorflow as tf

from lake import InputError
from trainer.config.run import Config
from trainer.data import batches
from trainer.devices.strategy import compiles_gradients, peak_memory_bytes, policy_name
from trainer.training import step
from trainer.training.run import batches_of, compiled_steps, decoded_images, moving_parts, set_up

ROUNDS = 3  # of each measurement, in turn; the best counts, because a machine may be shared
USABLE = 0.92  # of a device's memory: the rest is the driver's and lost between tensors
GIGABYTE = 1e9


def report(
    run: Config,
    overrides: list[str],
    config_path: str,
    steps: int,
    replicas: list[int],
    memory_gb: list[float],
    json_path: Path | None,
) -> str:
    """Measures and returns the table; `steps` of each round. `replicas`: numbers of them to go
    through, each with the config's batch on every one; `memory_gb`: of devices whose largest batch
    is wanted."""
    if run.stages:
        raise InputError("benchmark measures one run; give a config without stages")
    command = ["--config", config_path, "--lake", run.lake, "--steps", str(steps), *overrides]
    if replicas:
        batch = run.data.batch_size
        found = [
            _in_a_process([*command, f"--train.replicas={n}", f"--data.batch_size={batch * n}"])
            for n in replicas
        ]
    else:
        found = [measure(run, steps)]
    result = {"runs": found}
    lines = [_table(found)]
    if memory_gb:
        result["memory"] = largest_batches(command, memory_gb)
        lines.append(_memory_lines(result["memory"]))
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    return "\n".join(lines)


def measure(run: Config, steps: int) -> dict:
    """Of this process: rates in images a second, memory in GB."""
    setup = set_up(run)
    strategy, batch = setup.strategy, run.data.batch_size
    built = peak_memory_bytes(strategy) / GIGABYTE
    with strategy.scope():
        moving = moving_parts(run, setup)
    several_steps = compiled_steps(run, setup, moving)
    decoded = decoded_images(run, setup.lakes, setup.split)
    of_lake = batches_of(run, setup.split, 1, 0, decoded=decoded).repeat()
    one = of_lake.take(1).cache()
    [in_memory] = one
    kernel = tf.function(
        lambda images: step.prepare_batch(images, run.augment),
        autograph=False,
        jit_compile=compiles_gradients(run.train.jit, strategy),
    )
    records = batches.stored_records(setup.split).repeat()
    iterators = {
        "step": iter(strategy.experimental_distribute_dataset(one.repeat())),
        "training": iter(strategy.experimental_distribute_dataset(of_lake)),
    }

    def trained(name: str) -> Callable:
        return lambda: several_steps(iterators[name], tf.constant(steps))["loss"].numpy()

    def augmented() -> None:
        for _ in range(steps):
            images, _ = kernel(in_memory)
        images.numpy()

    seconds = best_seconds(
        {
            "reading": lambda: time_elements(records, steps * batch),
            "input": lambda: time_elements(of_lake, steps),
            "augmentation": lambda: time_call(augmented),
            "step": lambda: time_call(trained("step")),
            "training": lambda: time_call(trained("training")),
        }
    )
    rates = {name: steps * batch / best for name, best in seconds.items()}
    return {
        "network": run.model.kind,
        "parameters": setup.network.count_params(),
        "side": run.data.side,
        "batch_size": batch,
        "precision": policy_name(run.train.precision, strategy),
        "replicas": strategy.num_replicas_in_sync,
        "devices": list(strategy.extended.worker_devices),
        "images_per_second": rates,
        "input_share": max(0.0, 1 - rates["training"] / rates["step"]),
        "built_gb": built,
        "peak_gb": peak_memory_bytes(strategy) / GIGABYTE,
    }


def time_call(call: Callable) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def time_elements(dataset: tf.data.Dataset, count: int) -> float:
    """Of so many elements behind the first, which waits for files to be opened."""
    elements = iter(dataset)
    next(elements)
    return time_call(lambda: [next(elements) for _ in range(count)])


def best_seconds(calls: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Of each call's best round; they take turns, the first compiles."""
    rounds = [{name: call() for name, call in calls.items()} for _ in range(1 + ROUNDS)]
    return {name: min(found[name] for found in rounds[1:]) for name in calls}


def largest_batches(command: list[str], memory_gb: list[float]) -> dict:
    """From the peaks of one replica with one image and with two: a line through them, and the
    number of images at which it reaches each device's memory."""
    single = ["--train.replicas=1", "--optimizer.accumulate=1"]
    one, two = (
        _in_a_process([*command, *single, f"--data.batch_size={batch}"])["peak_gb"]
        for batch in (1, 2)
    )
    return {
        "gb_of_one": one,
        "gb_of_each_more": two - one,
        "largest": images_that_fit(one, two, memory_gb),
    }


def images_that_fit(one: float, two: float, memory_gb: list[float]) -> dict[str, int]:
    """{GB: images that fit}, of the peaks in GB with one image and with two."""
    if two <= one:
        raise InputError(
            f"a second image took no more memory ({one:.2f} and {two:.2f} GB at their peaks): too "
            f"little to predict from; give a larger --data.side"
        )
    return {f"{gb:g}": max(0, int(1 + (gb * USABLE - one) // (two - one))) for gb in memory_gb}


def _in_a_process(arguments: list[str]) -> dict:
    """What `measure` finds in a process of its own."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        command = [sys.executable, "-m", "trainer.task", "benchmark", *arguments]
        done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True)
        if done.returncode:
            raise InputError(
                f"{' '.join(arguments)}: {done.stderr.strip().removeprefix('error: ')}"
            )
        [found] = json.loads(path.read_text())["runs"]
    return found


def _table(found: list[dict]) -> str:
    first = found[0]
    lines = [
        f"{first['network']} with {first['parameters']:,} parameters at {first['side']} px, "
        f"{first['precision']}, on {first['devices'][0].partition('device:')[2]}; images a second",
        f"{'replicas':>8}{'batch':>7}"
        + "".join(f"{name:>14}" for name in first["images_per_second"])
        + f"{'a replica':>12}{'scaling':>9}{'input wait':>12}{'peak GB':>9}",
    ]
    per_replica = first["images_per_second"]["training"] / first["replicas"]
    for one in found:
        rates = one["images_per_second"]
        own = rates["training"] / one["replicas"]
        lines.append(
            f"{one['replicas']:>8}{one['batch_size']:>7}"
            + "".join(f"{rate:>14,.1f}" for rate in rates.values())
            + f"{own:>12,.1f}{own / per_replica:>9.2f}{one['input_share']:>12.1%}"
            + f"{one['peak_gb']:>9.2f}"
        )
    return "\n".join(lines)


def _memory_lines(memory: dict) -> str:
    sizes = "  ".join(f"{gb} GB: {batch}" for gb, batch in memory["largest"].items())
    return (
        f"memory of one replica: {memory['gb_of_one']:.2f} GB with one image, "
        f"{memory['gb_of_each_more']:.2f} GB with each one more\n"
        f"largest batch of a replica, predicted from these with {USABLE:.0%} of the memory "
        f"usable: {sizes}"
    )
