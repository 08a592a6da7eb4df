"""The files beside the shards: manifest.json, the two TFDS files, and the names of all.

The manifest is written last; a folder without one is not a lake.
"""

import json
from collections import Counter
from pathlib import Path

from lake import InputError, storage
from lake.records import example

SCHEMA_VERSION = 1
FINDINGS_SCHEMA_VERSION = 2  # of a multi-label lake, whose records have one field more
SCHEMA_VERSIONS = (SCHEMA_VERSION, FINDINGS_SCHEMA_VERSION)  # that readers take
MANIFEST, INDEX, REJECTS = "manifest.json", "index.parquet", "rejects.jsonl"
FEATURES, DATASET_INFO = "features.json", "dataset_info.json"
ORPHANS = "labels_without_image.txt"
SIDECARS = ".work"  # the folder with what a conversion knows of each shard
ERASED = "erased.jsonl"  # which images and patients were erased, by hashes
ERASING = "erasing.json"  # while an erasure has begun and not ended; the manifest is in it
LOCK = "convert.lock"  # while a process converts into the folder, or erases from it
KEYS = ("schema_version", "dataset", "version", "created", "options", "dtype", "counts")
KEYS += ("statistics", "shards")
COUNT_KEYS = ("images", "records", "rejects", "labels_without_image", "splits")
SHARD_KEYS = ("name", "split", "records", "bytes", "sha256")
FOLDED = ("train", "val")  # the splits that folds divide; the others stay out of them
FINDING_STATES = {"positives": 1, "negatives": 0, "unknown": -1}  # values in records, as counted
TFDS_FEATURES = "tensorflow_datasets.core.features"


def shard_name(dataset: str, split: str, shard: int, num_shards: int) -> str:
    """Return the file name of a split's shard, counted from 0, as TFDS expects it."""
    return f"{dataset}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def num_shards(content: dict) -> Counter:
    """Return {split: the number of its shards} of a lake."""
    return Counter(shard["split"] for shard in content["shards"])


def sidecar_path(shard: Path) -> Path:
    """Return where the sidecar of a shard is."""
    return shard.parent / SIDECARS / f"{shard.name}.json"


def is_hashed(content: dict) -> bool:
    """Return whether a lake has hashes of patients, and not their ids."""
    return content["options"].get("deidentify", "hash") == "hash"


def has_image_hashes(content: dict) -> bool:
    """Return whether a lake has hashes of image ids, and not the ids."""
    return content["options"].get("image_id") == "hash"


def num_classes(content: dict) -> int:
    """Return the number of labels of a lake: that of its class folders, else 2, lesion or none."""
    return len(content["classes"]) if "classes" in content else 2


def findings(content: dict) -> list[str]:
    """Return the findings of a multi-label lake, in the order of its records' values; none in any
    other lake."""
    return content.get("findings", [])


def schema_version(num_findings: int) -> int:
    """Return the schema version of a lake of so many findings."""
    return FINDINGS_SCHEMA_VERSION if num_findings else SCHEMA_VERSION


def split_title(split: str, *contents: dict) -> str:
    """Return a split and the lakes with these manifests in words, such as `test (siim 1.0.0)`."""
    lakes = ", ".join(f"{content['dataset']} {content['version']}" for content in contents)
    return f"{split} ({lakes})"


def class_titles(classes: list[str]) -> list[str]:
    """Return class names with their labels before them, such as `0 NORMAL`."""
    return [f"{number} {name}" for number, name in enumerate(classes)]


def to_json(content: dict | list) -> str:
    """Return the text of a JSON file beside the shards."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def parse(text: str, folder: str) -> dict:
    """Return the manifest of the lake in `folder` from its JSON text; raises InputError where it is
    not JSON or has another schema."""
    try:
        manifest = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{folder}/{MANIFEST} is not JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise InputError(f"{folder}/{MANIFEST}: expected an object; convert again")
    if (version := manifest.get("schema_version")) not in SCHEMA_VERSIONS:
        expected = " or ".join(map(str, SCHEMA_VERSIONS))
        message = f"schema version {version}, expected {expected}; convert again"
        raise InputError(f"{folder}: {message}")
    return manifest


def no_manifest_error(folder: str) -> InputError:
    """Return the error for a folder without a manifest."""
    if not storage.is_remote(folder) and Path(folder, ERASING).exists():
        return InputError(f"{folder}: an erasure was interrupted here; repeat its command")
    return InputError(
        f"{folder}: no {MANIFEST}, so this is not a (finished) lake; expected the folder "
        f"ROOT/<name>/<version> that a conversion wrote"
    )


def load(folder: str) -> dict:
    """Return the manifest of the lake in `folder`; raises InputError where it is absent, damaged or
    lacks keys."""
    try:
        text = (storage.path_of(folder) / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise no_manifest_error(folder) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{folder}/{MANIFEST} is not UTF-8: {error}") from None
    content = parse(text, folder)
    check_keys(content, folder)
    return content


def check_keys(content: dict, folder: str) -> None:
    """Raise InputError where the manifest of the lake in `folder` lacks what readers need."""
    is_multi_label = content.get("schema_version") == FINDINGS_SCHEMA_VERSION
    keys = (*KEYS, "findings") if is_multi_label else KEYS
    absent_keys = [key for key in keys if key not in content]
    counts = content.get("counts", dict.fromkeys(COUNT_KEYS))
    absent_keys += [f"counts.{key}" for key in COUNT_KEYS if key not in counts]
    for number, shard in enumerate(content.get("shards", ())):
        absent_keys += [f"shards[{number}].{key}" for key in SHARD_KEYS if key not in shard]
    if absent_keys:
        raise InputError(f"{folder}/{MANIFEST} lacks {', '.join(absent_keys[:10])}; convert again")


def features_json(dtype: str, num_findings: int = 0) -> dict:
    """Return TFDS's features.json for a lake of so many findings, whose images have `dtype` (uint8
    or uint16)."""
    features = {}
    for name, (kind, count) in example.fields_of(num_findings).items():
        class_name, key, description = _tfds_feature(name, kind, count, dtype)
        features[name] = {"pythonClassName": f"{TFDS_FEATURES}.{class_name}", key: description}
    return {
        "type": f"{TFDS_FEATURES}.features_dict.FeaturesDict",
        "content": {"features": features},
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }


def _tfds_feature(name: str, kind: type, count: int, dtype: str) -> tuple[str, str, dict]:
    """Return TFDS's class of a field of so many values, and the key and the value of its
    description."""
    shape = {"shape": {"dimensions": ["-1", "-1", "1"]}}
    if name == "image":
        return "image_feature.Image", "image", {**shape, "dtype": dtype}
    if name == "mask":
        return "image_feature.Image", "image", {**shape, "dtype": "uint8", "encodingFormat": "png"}
    if kind is bytes:
        return "text_feature.Text", "text", {}
    tensor = {"dtype": "int64" if kind is int else "float32", "encoding": "none"}
    if not example.is_list(name, count):
        return "scalar.Scalar", "tensor", {"shape": {}, **tensor}
    shape = {"shape": {"dimensions": [str(count)]}}
    return "tensor_feature.Tensor", "tensor", {**shape, **tensor}


def dataset_info_json(dataset: str, version: str, shards: list[dict]) -> dict:
    """Return TFDS's dataset_info.json for shards as the manifest lists them."""
    splits = []
    for split in dict.fromkeys(shard["split"] for shard in shards):
        members = [shard for shard in shards if shard["split"] == split]
        splits.append(
            {
                "name": split,
                "shardLengths": [str(shard["records"]) for shard in members],
                "numBytes": str(sum(shard["bytes"] for shard in members)),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    return {"name": dataset, "version": version, "fileFormat": "tfrecord", "splits": splits}
