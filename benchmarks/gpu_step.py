"""One training step on JAX, and what a device does with it; a process of benchmarks/gpu.py.

    python benchmarks/gpu_step.py JSON       {"parts": [Part, …], "until": seconds since 1970}

Prints a line of JSON per result, such as {"row": …}. It imports JAX, Keras, NumPy, pydantic and
yaml, and of radlake what stands on keras.ops.

    batch ─ window, augmentation ─> images, masks ─ network ─> logits ─ losses ─> gradients
    gradients ─ finite? ─ clipping, AdamW ─> weights; the network also returns its BN statistics

Shapes: B images of a batch, S their side.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["KERAS_BACKEND"] = "jax"
# By default JAX takes 75% of a GPU's memory, and the largest batch would be that of the 75%.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import keras
import numpy as np
from gpu import Part, top_kernels
from jax import numpy as jnp
from jax.profiler import ProfileData
from macs import forward_macs

from trainer.augmentation import augment
from trainer.config import files
from trainer.config.network import Unet
from trainer.config.run import Config
from trainer.models import unet, unetpp
from trainer.models.window import to_unit
from trainer.scoring import objective

CONFIG = Path(__file__).parent.parent / "configs" / "unetpp.yaml"
TOY = ["--model.depth=1", "--model.filters=8", "--data.batch_size=2"]
POSITIVE_SHARE = 0.01  # of the pixels, as in full_step.py
DECAY_OF_ADAMW = 1e-4  # where the config has none, as trainer/training/optimizer.py has it
TIMED_GROUPS = 3
PROFILED_STEPS = 3
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # in the message of XLA's error
# {what is tried: options of XLA's compiler}. Without them XLA chooses for each convolution.
LAYOUTS = {
    "layout NHWC": {"xla_gpu_force_conv_nhwc": True},
    "layout NCHW": {"xla_gpu_force_conv_nchw": True},
}


# --- network and optimizer ---


class DrawnByNumPy(keras.initializers.Initializer):
    """He's normal values, drawn by NumPy: JAX compiles the draws of each shape anew, which took a
    CPU half a minute of a DenseNet121."""

    def __call__(self, shape, dtype=None, **_):
        deviation = np.sqrt(2 / max(1, np.prod(shape[:-1])))
        values = np.random.default_rng(0).normal(0, deviation, shape)
        return jnp.asarray(values.astype(dtype or "float32"))


class Constant(keras.initializers.Initializer):
    """One value everywhere, without a compilation per shape."""

    value = 0.0

    def __call__(self, shape, dtype=None, **_):
        return jnp.asarray(np.full(shape, self.value, dtype or "float32"))


class Ones(Constant):
    value = 1.0


FIRST_WEIGHTS = {
    **dict.fromkeys(("he_normal", "glorot_uniform"), DrawnByNumPy),
    "zeros": Constant,
    "ones": Ones,
}


def run_config(part: Part) -> Config:
    """Return configs/unetpp.yaml at the part's side, with the batch that has as many pixels as the
    config's; with a U-Net in place of its network where the part says so."""
    config = files.load(CONFIG, TOY if part.is_toy else [])
    data, section = config.data, config.model
    if not part.is_toy:
        size = max(1, data.batch_size * data.side**2 // part.side**2)
        data = data.model_copy(update={"batch_size": size})
    if part.network == "unet_densenet121":
        section = Unet(kind="unet", encoder="densenet121", norm="batch")
    elif part.network == "unet":  # the toy's stand-in, with batch norm too
        section = Unet(kind="unet", norm="batch", depth=1, filters=8)
    if part.choice == "twice the filters":
        section = section.model_copy(update={"filters": 2 * section.filters})
    data = data.model_copy(update={"side": part.side})
    return config.model_copy(update={"model": section, "data": data})


def build_learner(config: Config, num_channels: int) -> tuple:
    """Return the pair of the network with random weights, for images of this number of channels,
    and the config's AdamW with its highest rate; biases and norms do not decay."""
    module = {"unet": unet, "unetpp": unetpp}[config.model.kind]
    settings = config.optimizer
    decay = DECAY_OF_ADAMW if settings.weight_decay is None else settings.weight_decay
    with keras.utils.custom_object_scope(FIRST_WEIGHTS):
        network = module.build(config.model, config.data.side, num_channels)
        optimizer = keras.optimizers.AdamW(
            settings.learning_rate, weight_decay=decay, global_clipnorm=settings.clip_norm
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        optimizer.build(network.trainable_variables)
    return network, optimizer


# --- the step ---


def prepare(batch: dict, config: Config) -> tuple:
    """Return images in [0, 1] and masks, [B, S, S, 1] float32, augmented by the batch's draws."""
    uniforms, settings = batch["uniforms"], config.augment
    window = augment.jitter_window(batch["window"], uniforms, settings, config.data.side)
    masks = batch["mask"].astype("float32")
    return augment.apply(to_unit(batch["image"], window), masks, uniforms, settings)


def training_step(config: Config, network: keras.Model, optimizer) -> Callable:
    """Return (state, batch) -> (state, loss); `state` as first_state returns it."""
    image_losses = objective.image_losses(config, POSITIVE_SHARE)
    num_zeros = network.input.shape[-1] - 1  # channels beside the grey one

    def mean_loss(weights, statistics, images, masks, batch):
        logits, statistics = network.stateless_call(weights, statistics, images, training=True)
        return jnp.mean(image_losses(masks, [logits], batch)), statistics

    def step(state: tuple, batch: dict) -> tuple:
        weights, statistics, moments = state
        images, masks = prepare(batch, config)
        images = jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, num_zeros)))
        (loss, statistics), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
            weights, statistics, images, masks, batch
        )
        # The norm is finite only where every gradient is; where it is not, all of them are 0.
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient)) for gradient in gradients))
        gradients = [jnp.where(jnp.isfinite(norm), gradient, 0.0) for gradient in gradients]
        weights, moments = optimizer.stateless_apply(moments, gradients, weights)
        return (weights, statistics, moments), loss

    return step


def first_state(network: keras.Model, optimizer) -> tuple:
    """Return (weights, BN statistics, the optimizer's variables), copied: a step gives the memory
    of its state to the next one."""
    groups = network.trainable_variables, network.non_trainable_variables, optimizer.variables
    return tuple([jax.device_put(np.array(variable.value)) for variable in g] for g in groups)


def draw_batch(config: Config, size: int) -> dict:
    """Return a batch on the device, as trainer/data/batches.py describes it: noise, with a lesion
    in every image."""
    rng, side = np.random.default_rng(0), config.data.side
    masks = np.zeros((size, side, side, 1), np.uint8)
    masks[:, side // 4 : side // 2, side // 4 : side // 3] = 1
    batch = {
        "image": rng.integers(0, 256, (size, side, side, 1), np.uint8),
        "mask": masks,
        "window": np.float32([[0, 255]] * size),
        "uniforms": rng.random((size, augment.num_draws(config.augment, side)), np.float32),
        **dict.fromkeys(("label", "has_mask", "weight"), np.ones(size, np.float32)),
    }
    return jax.device_put(batch)


# --- what the device does with it ---


def seconds_per_call(call: Callable, seconds: float) -> float:
    """Return the median over groups of calls that take about so many seconds altogether. Calls of a
    group are waited for together: a device does not wait for Python between them."""
    jax.block_until_ready(call())
    started = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, min(200, int(seconds / TIMED_GROUPS / (time.perf_counter() - started))))
    means = []
    for _ in range(TIMED_GROUPS):
        started = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        means.append((time.perf_counter() - started) / count)
    return median(means)


def count_flops(lowered, compiled, convolutions: float) -> dict:
    """Return the floating-point operations of a step as JAX's cost analysis counts them, before and
    after compilation, as its convolutions alone have them, and which of these counts.

    The analysis of the compiled step is of what runs, but sees nothing inside the calls of cuDNN
    into which XLA turns convolutions on a GPU. Where it has less than the convolutions, the one
    before compilation counts.
    """
    stages = {"compiled": compiled, "before compilation": lowered}
    flops = {name: (s.cost_analysis() or {}).get("flops", 0.0) for name, s in stages.items()}
    flops["convolutions by layer"] = convolutions
    source = next(name for name, count in flops.items() if count >= 0.9 * convolutions)
    return {"flops": flops, "flops_source": source}


def peak_bytes() -> int:
    """Return the largest memory that this process had in use on the device; 0: it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def measure(part: Part, config: Config, size: int) -> dict:
    """Return the row of a step with batches of this size."""
    network, optimizer = build_learner(config, 8 if part.choice == "8 channels" else 1)
    state, batch = first_state(network, optimizer), draw_batch(config, size)
    peak_before, started = peak_bytes(), time.perf_counter()
    step = jax.jit(training_step(config, network, optimizer), donate_argnums=0)
    lowered = step.lower(state, batch)
    compiled = lowered.compile(compiler_options=LAYOUTS.get(part.choice))
    compile_seconds = time.perf_counter() - started

    def next_step():
        nonlocal state
        state, loss = compiled(state, batch)
        return loss

    first_loss = float(next_step())
    budget = 0.1 if part.is_toy else 2.0  # seconds
    step_seconds = seconds_per_call(next_step, budget)
    augmentation = jax.jit(lambda batch: prepare(batch, config))
    augmentation_seconds = seconds_per_call(lambda: augmentation(batch), budget / 4)
    if part.is_profiled:
        answer(kernels=profile(next_step))
    # A step has each convolution three times: forward, and for the gradients of its two factors.
    convolutions = 3 * 2.0 * forward_macs(network) * size
    memory, peak = compiled.memory_analysis(), peak_bytes()
    return {
        **part._asdict(),
        "batch": size,
        "images_per_second": size / step_seconds,
        "step_seconds": step_seconds,
        "augmentation_seconds": augmentation_seconds,
        "compile_seconds": compile_seconds,
        **count_flops(lowered, compiled, convolutions),
        # None: an earlier step of this process needed more, or the device does not say.
        "peak_bytes": peak if peak > peak_before else None,
        "compiled_bytes": memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "losses": [first_loss, float(next_step())],
        "parameters": network.count_params(),
    }


def profile(call: Callable) -> list[dict]:
    """Return the kernels that took most of a few steps, by JAX's profiler."""
    with tempfile.TemporaryDirectory(prefix="radlake-") as folder:
        with jax.profiler.trace(folder):
            for _ in range(PROFILED_STEPS):
                result = call()
            jax.block_until_ready(result)
        (trace,) = Path(folder).rglob("*.xplane.pb")
        return top_kernels(ProfileData.from_file(str(trace)), PROFILED_STEPS)


def measure_batches(part: Part, until: float) -> None:
    """Print the rows of a part: of the config's batch, halved until it fits, then of twice the
    batch as long as it fits and there is time."""
    config, longest = run_config(part), 0.0
    policy = "float32" if part.precision == "float32" else f"mixed_{part.precision}"
    keras.mixed_precision.set_dtype_policy(policy)
    size, sizes = config.data.batch_size, []  # those that fit
    while size and len(sizes) <= part.doublings:
        if time.time() + longest > until:
            answer(left_out=f"{part.title}: batches of {size} and more")
            return
        started = time.time()
        try:
            answer(row=measure(part, config, size))
            sizes.append(size)
            size *= 2
            part = part._replace(is_profiled=False)
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            answer(too_large=part._asdict() | {"batch": size})
            if sizes:
                return
            size //= 2
        longest = max(longest, time.time() - started)


def answer(**result) -> None:
    """Print a result, as gpu.py reads it."""
    print(json.dumps(result), flush=True)


def main(text: str) -> None:
    order, device = json.loads(text), jax.devices()[0]
    answer(
        device={
            "platform": device.platform,
            "kind": device.device_kind,
            "bytes_limit": (device.memory_stats() or {}).get("bytes_limit"),
            "jax": jax.__version__,
            "keras": keras.__version__,
        }
    )
    for fields in order["parts"]:
        measure_batches(Part(**fields), order["until"])


if __name__ == "__main__":
    main(*sys.argv[1:])
