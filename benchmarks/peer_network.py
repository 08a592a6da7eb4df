"""The peer of benchmarks/peer.py: segmentation_models_pytorch's U-Net, trained as peer.py says. It
imports nothing of radlake and runs in an environment of its own.

In: a folder with plan.json, arrays of images, and what each step draws. Out, in the same folder:
predictions_SPLIT.npz, and timing.json, which says that it is done. The state is kept after each
epoch, and the same command goes on from there.

    images   [N, S, S] uint8, and the window [N, 2] of each: p = (value - low) / (high - low)
    masks    [N, S * S / 8] uint8, eight pixels to a byte
    draws    rows [steps, B] of images; maps [steps, B, 2, 3] from output to input, as
             torch.nn.functional.affine_grid takes them; greys [steps, B, 3]: factor of contrast,
             brightness added, exponent of gamma
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional
from unetpp_step import answer_steps, torch_macs

# ImageNet's colours, which torchvision's weights were trained with.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPSILON = 1e-7  # of Adam, as Keras has it
PREDICTED_AT_ONCE = 16  # images


class Network(torch.nn.Module):
    """The U-Net behind ImageNet's preprocessing: p [B, 1, S, S] in [0, 1] -> (logits of pixels
    [B, 1, S, S], logits of "there is a lesion" [B] or None)."""

    def __init__(self, plan: dict):
        super().__init__()
        head = {"pooling": "avg", "classes": 1, "dropout": None} if plan["lesion"] else None
        self.unet = smp.Unet(
            plan["encoder"], encoder_weights=None, decoder_channels=plan["widths"], aux_params=head
        )
        if plan["weights"]:
            with np.load(plan["weights"]) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            # Its encoder's own method returns nothing.
            load = torch.nn.Module.load_state_dict
            missing, unexpected = load(self.unet.encoder, state, strict=False)
            missing = [name for name in missing if not name.endswith("num_batches_tracked")]
            if missing or unexpected:
                sys.exit(f"{plan['weights']}: missing {missing}, unexpected {unexpected}")
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, p):
        outputs = self.unet((p.expand(-1, 3, -1, -1) - self.mean) / self.deviation)
        return (outputs[0], outputs[1][:, 0]) if isinstance(outputs, tuple) else (outputs, None)


# --- a step ---


def augment(p, masks, maps, greys):
    """Return p and masks [B, 1, S, S] after one resampling of both, and after contrast, brightness
    and gamma of p alone."""
    mean = p.mean(dim=(1, 2, 3), keepdim=True)
    grid = functional.affine_grid(maps, p.shape, align_corners=False)
    planes = functional.grid_sample(torch.cat([p, masks], dim=1), grid, align_corners=False)
    p, masks = planes[:, :1], (planes[:, 1:] > 0.5).float()
    factor, add, exponent = greys.T[..., None, None, None]
    p = (p * factor + (mean * (1 - factor) + add)).clamp(0, 1)
    return p**exponent, masks


def loss_of(logits, lesion_logits, masks, plan: dict):
    """Return the plan's weighted sum of BCE, dice of each image or of the batch, and BCE of "there
    is a lesion"."""
    p, axes = torch.sigmoid(logits), (1, 2, 3)
    axes = (0, *axes) if plan["is_batch_dice"] else axes
    smooth = plan["smooth"]
    dice = (2 * (p * masks).sum(axes) + smooth) / (p.sum(axes) + masks.sum(axes) + smooth)
    bce = functional.binary_cross_entropy_with_logits
    loss = plan["bce"] * bce(logits, masks) + plan["dice"] * (1 - dice).mean()
    if plan["lesion"]:
        has_lesion = masks.amax(dim=(1, 2, 3))
        loss = loss + plan["lesion"] * bce(lesion_logits, has_lesion)
    return loss


def rate_at(step: int, plan: dict) -> float:
    """Return the rate of a step, counted from 0: a line up, then half a cosine."""
    warmup, share = plan["warmup_steps"], plan["final_share"]
    if step < warmup:
        return plan["rate"] * step / warmup
    done = min(1.0, (step - warmup) / max(1, plan["steps"] - warmup))
    return plan["rate"] * (share + (1 - share) * (1 + math.cos(math.pi * done)) / 2)


class Learner:
    """Network, optimizer and the moving average of the weights."""

    def __init__(self, plan: dict):
        self.plan = plan
        torch.set_num_threads(plan["threads"])
        torch.manual_seed(plan["seed"])
        self.network = Network(plan)
        groups = {}
        for name, weight in self.network.named_parameters():
            share = plan["encoder_rate"] if ".encoder." in name else 1.0
            decay = plan["decay"] if weight.ndim > 1 else 0.0  # none of biases and norms
            groups.setdefault((share, decay), []).append(weight)
        self.shares = [share for share, _ in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": weights, "weight_decay": decay} for (_, decay), weights in groups.items()],
            eps=EPSILON,
        )
        self.average = {name: value.clone() for name, value in self._values().items()}

    def _values(self) -> dict:
        """Return the weights and the statistics of the norms, by name."""
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if value.is_floating_point()}

    def step(self, number: int, p, masks, maps, greys) -> float:
        """Take a step; return its loss."""
        self.network.train()
        p, masks = augment(p, masks, maps, greys)
        loss = loss_of(*self.network(p), masks, self.plan)
        self.optimizer.zero_grad()
        loss.backward()
        if self.plan["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan["clip_norm"])
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = share * rate_at(number, self.plan)
        self.optimizer.step()
        if self.plan["ema"]:
            share = 1 - min(self.plan["ema"], (1 + number) / (10 + number))
            values = self._values()
            torch._foreach_lerp_([*self.average.values()], [*values.values()], share)
        return loss.item()

    def for_prediction(self) -> Network:
        """Return the network with the averaged weights, where there are some, in inference mode."""
        if self.plan["ema"]:
            self.network.load_state_dict(self.average, strict=False)
        return self.network.eval()


# --- a run ---


class Images:
    """The images of a split."""

    def __init__(self, folder: Path, name: str):
        self.image = np.load(folder / f"{name}_image.npy", mmap_mode="r")
        self.window = np.load(folder / f"{name}_window.npy")
        path = folder / f"{name}_mask.npy"
        self.mask = np.load(path) if path.exists() else None

    def p(self, rows):
        """Return p of these images, [B, 1, S, S]."""
        low, high = self.window[rows].T[..., None, None]
        return torch.from_numpy(np.float32((self.image[rows] - low) / (high - low)))[:, None]

    def masks(self, rows):
        """Return the masks of these images, [B, 1, S, S] of 0 and 1."""
        bits = np.unpackbits(self.mask[rows], axis=1).reshape(self.image[rows].shape)
        return torch.from_numpy(np.float32(bits))[:, None]


def train(folder: Path, plan: dict) -> Learner:
    """Take all steps, or those that an earlier start left, and note what they took."""
    learner, images = Learner(plan), Images(folder, "train")
    draws = dict(np.load(folder / "draws.npz"))
    first, seconds, file = 0, {"clock": 0.0, "cpu": 0.0}, folder / "state.pt"
    if file.exists():
        state = torch.load(file)
        learner.network.load_state_dict(state["network"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.average, first, seconds = state["average"], state["step"], state["seconds"]
        print(f"peer: going on at step {first}", flush=True)
    for number in range(first, plan["steps"]):
        before = time.perf_counter(), time.process_time()
        rows = draws["rows"][number]
        maps, greys = (torch.from_numpy(draws[name][number]) for name in ("maps", "greys"))
        loss = learner.step(number, images.p(rows), images.masks(rows), maps, greys)
        seconds["clock"] += time.perf_counter() - before[0]
        seconds["cpu"] += time.process_time() - before[1]
        done = number + 1
        if done % plan["steps_per_epoch"] == 0 or done == plan["steps"]:
            print(f"peer: step {done} of {plan['steps']}, loss {loss:.4f}", flush=True)
            state = {"network": learner.network.state_dict(), "average": learner.average}
            state |= {"optimizer": learner.optimizer.state_dict(), "step": done}
            torch.save({**state, "seconds": seconds}, folder / "state.part")
            os.replace(folder / "state.part", file)
    parameters = sum(weight.numel() for weight in learner.network.parameters())
    timing = {"seconds": seconds, "steps": plan["steps"], "parameters": parameters}
    (folder / "timing.json").write_text(json.dumps(timing))
    return learner


def predict(network: Network, images: Images) -> dict:
    """Return p of the pixels [N, S, S], and the logit that ranks each image [N], where it has
    one."""
    maps, lesions = [], []
    with torch.no_grad():
        for start in range(0, len(images.image), PREDICTED_AT_ONCE):
            logits, lesion = network(images.p(slice(start, start + PREDICTED_AT_ONCE)))
            maps.append(torch.sigmoid(logits[:, 0]).numpy())
            lesions += [] if lesion is None else [lesion.numpy()]
    outputs = {"p": np.concatenate(maps)}
    return outputs | ({"lesion": np.concatenate(lesions)} if lesions else {})


def main(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    network = train(folder, plan).for_prediction()
    for name in plan["predicted"]:
        np.savez(folder / f"predictions_{name}.npz", **predict(network, Images(folder, name)))


# --- for benchmarks/peer.py --speed_only, and its check of the augmentation ---


def random_step(plan: dict) -> tuple[Callable, int]:
    """Return (a step on random pixels, the multiply-accumulates of one image's forward pass)."""
    learner, size = Learner(plan), (plan["batch"], 1, plan["side"], plan["side"])
    p, masks = torch.rand(size), (torch.rand(size) > 0.99).float()
    maps = torch.eye(2, 3).expand(len(p), 2, 3) + 0.05 * torch.rand(len(p), 2, 3)
    greys = torch.tensor([1.1, 0.05, 1.1]).expand(len(p), 3)
    macs = torch_macs(learner.network.eval(), p[:1])
    return lambda: learner.step(1, p, masks, maps, greys), macs


def augmented(folder: Path) -> None:
    """Write the first batch as the network would get it."""
    images, draws = Images(folder, "train"), dict(np.load(folder / "draws.npz"))
    rows = draws["rows"][0]
    maps, greys = (torch.from_numpy(draws[name][0]) for name in ("maps", "greys"))
    p, masks = augment(images.p(rows), images.masks(rows), maps, greys)
    np.savez(folder / "augmented.npz", p=p[:, 0].numpy(), masks=masks[:, 0].numpy())


if __name__ == "__main__":
    word, argument = sys.argv[1:]
    if word == "serve":
        answer_steps(*random_step(json.loads(argument)))
    elif word == "augment":
        augmented(Path(argument))
    else:
        main(Path(argument))
