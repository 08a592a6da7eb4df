"""A workdir -> scores. Thresholds are chosen on the validation split and then frozen for the test
split.

Probabilities are resized to the source's own size before thresholding, and scored against the union
of the label file's rows: the challenge's metric, not one at the network's size.
"""

import functools
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from lake import InputError, rle
from trainer import augment, checkpoint, config, damage, data, metrics, objective, pixels, validate
from trainer.models import blocks

# The triplets that are tried: keep p > bottom unless fewer than `area` pixels have p > top.
BOTTOMS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOPS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
AREAS_SHARE = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)  # of the image
# Of an empty_head: a mask is emptied where its p is below; 0 keeps every mask.
LESIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PICTURED_POSITIVES, PICTURED_OTHERS = 6, 2
# What is needed of a record besides the network's input.
EXTRA_FIELDS = ("original_rle", "original_height", "original_width", "height", "width")


def evaluate(
    workdir: Path,
    lake: str | None = None,
    picture: Path | None = None,
    prune: int | None = None,
    tta: str = "none",
) -> str:
    """Scores the best weights of a run, writes metrics.json and the picture; returns a table to
    print. `prune`: of the U-Net++ of that depth in it, beside the whole one's scores; `tta`: "flip"
    scores the mean of the probabilities of each image and its mirror image, thresholds included."""
    run, network = checkpoint.load(workdir, prune)
    folder = lake or run.lake
    content = data.open_lake(folder)
    data.check_classes(content, folder, run)
    splits = [data.validation_split(content, folder, run.data)]  # the thresholds are chosen on it
    if splits[0].name != "test" and content["counts"]["splits"].get("test", {}).get("records"):
        splits.append(data.split_of(content, folder, "test"))
    has_head = getattr(run.model, "empty_head", False)
    forward = functools.partial(
        objective.with_layers(network, [blocks.LESION] if has_head else []), training=False
    )
    if tta == "flip":
        forward = augment.with_mirrored(forward)
    predict = tf.function(lambda batch: forward(augment.to_unit(batch["image"], batch["window"])))
    with damage.explained(run, folder):
        sets = {split.name: Predictions(split, run, predict) for split in splits}
    score = _classifier_scores if run.is_classifier else _segmenter_scores
    chosen = None if run.is_classifier else choose_thresholds(sets[splits[0].name])
    result = {name: score(predictions, chosen) for name, predictions in sets.items()}
    thresholds = {name: value for name, value in (chosen or {}).items() if name != "at"}
    written = {"lake": folder, "tta": tta, "triplet": None, **thresholds, "splits": result}
    part = "" if prune is None else f"_l{prune}"
    part += "" if tta == "none" else f"_tta_{tta}"
    checkpoint.write_metrics(workdir, {f"evaluate{part}": written})
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(sets[splits[-1].name], run, chosen)).save(picture)
    said = "" if prune is None else f", pruned to L{prune}: {network.count_params():,} parameters"
    said += "" if tta == "none" else ", with its mirror images"
    return table(f"{workdir}{said}", result, thresholds)


class Predictions:
    """What a network says of every record of a split, and the truth beside it.

    `predict`: batch -> [logits], or [logits, an empty_head's logits [B, 1]], which are then the
    images' scores.
    """

    def __init__(self, split: data.Split, run: config.Config, predict):
        self.labels, self.scores = [], []
        # Of each image with a mask: dice [T, A, K], dice at p > 0.5, whether there is a lesion, and
        # p of the empty_head, where there is one.
        self.dices, self.dice_at_half, self.lesions, self.heads = [], [], [], []
        # (item, logits, p of the empty_head or None) of the first few with a lesion and without
        self.shown = []
        for batch in data.evaluation_batches(split, run.data, EXTRA_FIELDS).prefetch(2):
            logits, *head = (np.asarray(output, np.float32) for output in predict(batch))
            is_map = logits.ndim == 4
            if head:
                ranks = head[0][:, 0]
            elif is_map:
                ranks = np.asarray(metrics.lesion_score(logits[..., -1:]))
            else:
                ranks = logits  # [B, 1], or [B, C] of a classifier of C classes
            batch = {name: values.numpy() for name, values in batch.items()}
            for number in np.flatnonzero(batch["weight"]):
                item = {name: values[number] for name, values in batch.items()}
                self.labels.append(item["label"])
                self.scores.append(ranks[number])
                lesion = float(validate.of_logits(ranks[number])) if head else None
                if is_map and item["has_mask"]:
                    self._score_mask(item, logits[number, ..., -1:], run.data)
                    self.heads += [lesion] if head else []
                self._show(item, logits[number], lesion)

    def _show(self, item: dict, logits: np.ndarray, lesion: float | None) -> None:
        is_positive = item["label"] > 0
        alike = sum((other["label"] > 0) == is_positive for other, *_ in self.shown)
        if alike < (PICTURED_POSITIVES if is_positive else PICTURED_OTHERS):
            self.shown.append((item, logits, lesion))

    def dices_with_head(self, threshold: float) -> np.ndarray:
        """Dice [N, T, A, K] where the empty_head empties the masks of images with p < threshold."""
        shape = len(TOPS), len(AREAS_SHARE), len(BOTTOMS)
        dices = np.array(self.dices, np.float64).reshape(-1, *shape)
        if self.heads:
            is_emptied = np.array(self.heads) < threshold
            of_empty = 1.0 - np.array(self.lesions, np.float64)  # 1 for an image without a lesion
            dices[is_emptied] = of_empty[is_emptied, None, None, None]
        return dices

    def _score_mask(self, item: dict, logits: np.ndarray, settings: config.Data) -> None:
        height, width = int(item["original_height"]), int(item["original_width"])
        box = pixels.fitted_box(
            int(item["height"]), int(item["width"]), settings.side, settings.fit
        )
        probabilities = at_source_size(logits, box, height, width)[None]  # [1, H, W, 1]
        runs = rle.runs(item["original_rle"].decode(), height * width)
        mask = (rle.to_mask(runs, height, width) > 0).astype(np.float32)[None, :, :, None]
        areas = [share * height * width for share in AREAS_SHARE]
        self.dices.append(
            np.asarray(metrics.triplet_dice(mask, probabilities, TOPS, areas, BOTTOMS))[0]
        )
        self.dice_at_half.append(float(metrics.hard_dice(mask, probabilities > 0.5)[0]))
        self.lesions.append(len(runs) > 0)


def at_source_size(logits: np.ndarray, box: tuple, height: int, width: int):
    """Probabilities [height, width, 1] from logits [S, S, 1]: cut out of the padding, resized."""
    top, left, inner_height, inner_width = box
    probabilities = tf.sigmoid(logits[top : top + inner_height, left : left + inner_width])
    return tf.image.resize(probabilities, (height, width))


def choose_thresholds(predictions: Predictions) -> dict:
    """The (top, area, bottom) with the highest mean dice; area as a share of the image. With an
    empty_head also the p below which it empties a mask, 0 unless another is better."""
    if not predictions.dices:
        raise InputError(
            "the validation split has no image with a mask to choose the thresholds on"
        )
    lesions = LESIONS if predictions.heads else (0.0,)
    means = np.stack([predictions.dices_with_head(p).mean(axis=0) for p in lesions])  # [H, T, A, K]
    lesion, *at = (int(i) for i in np.unravel_index(means.argmax(), means.shape))
    top, area, bottom = at
    triplet = {"top": TOPS[top], "area_share": AREAS_SHARE[area], "bottom": BOTTOMS[bottom]}
    chosen = {"triplet": triplet, "at": tuple(at)}
    return chosen | {"lesion_threshold": lesions[lesion]} if predictions.heads else chosen


def _segmenter_scores(predictions: Predictions, chosen: dict) -> dict:
    dices = predictions.dices_with_head(chosen.get("lesion_threshold", 0.0))[:, *chosen["at"]]
    lesions, half = np.array(predictions.lesions), np.array(predictions.dice_at_half)
    return {
        "images": len(predictions.labels),
        "without_mask": len(predictions.labels) - len(dices),
        "dice_mean": float(dices.mean()) if len(dices) else math.nan,
        "dice_all_empty": float((~lesions).mean()) if len(dices) else math.nan,
        "dice_positives": float(dices[lesions].mean()) if lesions.any() else math.nan,
        "dice_positives_at_half": float(half[lesions].mean()) if lesions.any() else math.nan,
        "auc": _auc(predictions),
    }


def _classifier_scores(predictions: Predictions, _) -> dict:
    logits, labels = np.array(predictions.scores, np.float32), np.array(predictions.labels)
    if logits.shape[-1] == 1:
        return {"images": len(labels), "auc": _auc(predictions)}
    sums = validate.class_sums(logits, labels, np.ones_like(labels))
    return {"images": len(labels), **validate.class_scores(sums)}


def _auc(predictions: Predictions) -> float:
    scores, labels = np.array(predictions.scores, np.float32), np.array(predictions.labels)
    return metrics.auc(metrics.score_histogram(scores, labels, np.ones_like(scores)))


def draw(predictions: Predictions, run: config.Config, chosen: dict | None) -> np.ndarray:
    """The first few images of a split at the network's size, truth and prediction side by side."""
    items = sorted(predictions.shown, key=lambda shown: -shown[0]["label"])
    batch = {
        name: np.stack([item[name] for item, *_ in items])
        for name in ("image", "window", "label", "mask")
    }
    probabilities = validate.of_logits(np.stack([logits for _, logits, _ in items]))
    masks = None
    if chosen:
        triplet, probabilities = chosen["triplet"], probabilities[..., -1:]
        area = triplet["area_share"] * run.data.side**2
        masks = metrics.keep_by_triplet(probabilities, triplet["top"], area, triplet["bottom"])
        if "lesion_threshold" in chosen:
            is_kept = np.array([lesion >= chosen["lesion_threshold"] for *_, lesion in items])
            masks = np.asarray(masks) * is_kept[:, None, None, None]
    return validate.picture(batch, probabilities, masks)


def table(title: str, result: dict, thresholds: dict) -> str:
    """The title, one line a split, and the thresholds of a segmenter."""
    names = list(next(iter(result.values())))
    widths = {name: max(len(name), 7) + 2 for name in names}
    lines = [
        title,
        f"{'split':<8}" + "".join(f"{name:>{width}}" for name, width in widths.items()),
    ]
    for split, values in result.items():
        cells = (
            f"{values[n]:>{w}.4f}" if isinstance(values[n], float) else f"{values[n]:>{w}}"
            for n, w in widths.items()
        )
        lines.append(f"{split:<8}" + "".join(cells))
    if thresholds:
        triplet = thresholds["triplet"]
        said = (
            f"thresholds chosen on validation: keep p > {triplet['bottom']} unless less than "
            f"{triplet['area_share']:.2%} of the image has p > {triplet['top']}"
        )
        if lesion := thresholds.get("lesion_threshold"):
            said += f" or the empty_head says p < {lesion}"
        elif lesion is not None:
            said += "; the empty_head empties none"
        lines.append(said)
    return "\n".join(lines)
