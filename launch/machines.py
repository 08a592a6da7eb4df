"""The machines that the launchers can rent, by the name of --accelerator."""

import math

from lake import InputError

# Google's name of the GPU, and of the machine for each number of GPUs. H100s come in eights,
# because smaller a3-highgpu machines are for spot only.
GPUS = {
    "t4": ("NVIDIA_TESLA_T4", {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"}),
    "l4": ("NVIDIA_L4", {n: f"g2-standard-{12 * n}" for n in (1, 2, 4, 8)}),
    "a100": ("NVIDIA_TESLA_A100", {n: f"a2-highgpu-{n}g" for n in (1, 2, 4, 8)}),
    "a100_80gb": ("NVIDIA_A100_80GB", {n: f"a2-ultragpu-{n}g" for n in (1, 2, 4, 8)}),
    "h100": ("NVIDIA_H100_80GB", {8: "a3-highgpu-8g"}),
}
# Their MachineSpecs. Each is one host, whose chips are the replicas of one worker; a newer one has
# no accelerator type.
TPUS = {
    "tpu_v2": {"machineType": "cloud-tpu", "acceleratorType": "TPU_V2", "acceleratorCount": 8},
    "tpu_v3": {"machineType": "cloud-tpu", "acceleratorType": "TPU_V3", "acceleratorCount": 8},
    "tpu_v5e_1": {"machineType": "ct5lp-hightpu-1t", "tpuTopology": "1x1"},
    "tpu_v5e_4": {"machineType": "ct5lp-hightpu-4t", "tpuTopology": "2x2"},
    "tpu_v5e_8": {"machineType": "ct5lp-hightpu-8t", "tpuTopology": "2x4"},
    "tpu_v6e_1": {"machineType": "ct6e-standard-1t", "tpuTopology": "1x1"},
    "tpu_v6e_4": {"machineType": "ct6e-standard-4t", "tpuTopology": "2x2"},
    "tpu_v6e_8": {"machineType": "ct6e-standard-8t", "tpuTopology": "2x4"},
}
# gcloud's accelerator type of one host -> the runtime with its driver.
TPU_VMS = {
    "v2-8": "tpu-ubuntu2204-base",
    "v3-8": "tpu-ubuntu2204-base",
    "v4-8": "tpu-ubuntu2204-base",
    "v5litepod-1": "v2-alpha-tpuv5-lite",
    "v5litepod-4": "v2-alpha-tpuv5-lite",
    "v5litepod-8": "v2-alpha-tpuv5-lite",
    "v5p-8": "v2-alpha-tpuv5",
    "v6e-1": "v2-alpha-tpuv6e",
    "v6e-4": "v2-alpha-tpuv6e",
    "v6e-8": "v2-alpha-tpuv6e",
}


def vertex(accelerator: str, num_gpus: int | None, num_machines: int) -> dict:
    """Return Vertex AI's MachineSpec with `num_gpus` GPUs (None: the fewest that it comes with), or
    of the TPU host; raise InputError where Vertex AI has no such machine."""
    if accelerator in TPUS:
        if num_gpus is not None or num_machines != 1:
            raise InputError(
                f"--accelerator={accelerator} is one TPU host: leave --gpus and --machines out"
            )
        return TPUS[accelerator]
    name, types = GPUS[accelerator]
    count = min(types) if num_gpus is None else num_gpus
    if count not in types:
        counts = ", ".join(map(str, types))
        raise InputError(f"--gpus={num_gpus}: machines with {accelerator} have {counts}")
    return {"machineType": types[count], "acceleratorType": name, "acceleratorCount": count}


def vertex_replicas(accelerator: str, num_gpus: int | None, num_machines: int) -> int:
    """Return the replicas of a run on these machines: its GPUs, or the host's TPU cores as
    TensorFlow counts them. Raises InputError as `vertex` does."""
    spec = vertex(accelerator, num_gpus, num_machines)
    if "acceleratorCount" in spec:
        return spec["acceleratorCount"] * num_machines
    return math.prod(map(int, spec["tpuTopology"].split("x")))


def vertex_quota(accelerator: str, spot: bool) -> str:
    """Return the metric of Vertex AI's quota that limits how many of them train at once."""
    if accelerator in GPUS:
        name = f"nvidia_{accelerator}_gpus"
    else:
        name = "_".join(accelerator.split("_")[:2])
    preemptible = "preemptible_" if spot else ""
    return f"aiplatform.googleapis.com/custom_model_training_{preemptible}{name}"


def tpu_vm_replicas(accelerator: str) -> int:
    """Return the replicas of a run on one host: a v4 or v5p has two cores per chip, which
    TensorFlow drives as one, and its name counts cores."""
    kind, _, number = accelerator.partition("-")
    return int(number) // (2 if kind in ("v4", "v5p") else 1)
