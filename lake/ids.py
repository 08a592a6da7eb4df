"""Ids of images: a path -> an id; and which ids in a label file mean which images.

In: paths of files, ids of images, ids as a label file writes them. Out: ids, who meets whom.
"""

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

DICOM_ENDINGS = frozenset(("dcm", "dicom", "dic", "ima"))
IMAGE_ENDINGS = DICOM_ENDINGS.union(
    ("png", "jpg", "jpeg", "jpe", "jfif", "jp2", "tif", "tiff", "bmp", "gif", "webp"),
    ("mhd", "mha", "nrrd", "nhdr", "nii"),
)
PACKED_ENDINGS = frozenset(("gz", "bz2"))  # behind one of IMAGE_ENDINGS
FRAME = re.compile(r"#\d+$")  # as lake.scan.frame_id ends an id
PLAIN = re.compile(r"[0-9A-Za-z_\-][0-9A-Za-z_\-.]*")  # needs no tidying
INVISIBLE = "\u200b\ufeff"  # zero-width space, byte order mark
# A whole number as spreadsheets and pandas rewrite it: 00012 becomes 12 or 12.0.
NUMBER = re.compile(r"0*([0-9]+)(\.0+)?")


class Meeting(NamedTuple):
    """Says which ids of a label file belong to which images."""

    texts: dict[str, list[str]]  # image id -> the ids in the label file that mean it
    unclear: dict[str, str]  # image id -> the message why it cannot be told what means it
    elsewhere: set[str]  # image ids whose id in the label file names folders that the file lacks
    free: list[str]  # ids in the label file that mean no image, sorted


def below(path: str, root: str) -> str:
    """Return the part of a path below a folder that has the same number of parts as `root`: with
    its folders it tells files of one name apart."""
    depth = len([part for part in root.split("/") if part])
    return "/".join([part for part in path.split("/") if part][depth:])


def with_folders(path: str, root: str, name: str) -> str:
    """Return the id of an image with the folders of its path below `root`; `name` is its id without
    them."""
    folder = posixpath.dirname(below(path, root))
    return f"{folder}/{name}" if folder else name


def without_frame(image_id: str) -> str:
    """Return the id of the file that a frame belongs to."""
    return FRAME.sub("", image_id) if "#" in image_id else image_id


def tidy(text: str) -> str:
    """Return an id without what no two ids differ in on purpose: spaces around it, the composition
    of its letters, backslashes, a leading `./`."""
    if PLAIN.fullmatch(text):  # most are: this takes a tenth of the time
        return text
    text = unicodedata.normalize("NFC", text).strip().strip(INVISIBLE).strip()
    return "/".join(part for part in re.split(r"[/\\]", text) if part not in ("", "."))


def without_ending(text: str) -> str:
    """Return a tidy id without the ending of an image file's name, which may stand before the
    number of a frame."""
    text = tidy(text)
    frame = FRAME.search(text) if "#" in text else None
    if frame:
        return without_ending(text[: frame.start()]) + frame[0]
    stem, ending = split_ending(text)
    if ending in PACKED_ENDINGS:
        stem, ending = split_ending(stem)
    return stem if ending in IMAGE_ENDINGS else text


def split_ending(name: str) -> tuple[str, str]:
    """Return (a file's name without its ending, the ending in small letters without its dot); no
    ending where nothing would be left of the name."""
    stem, dot, ending = name.rpartition(".")
    return (stem, ending.lower()) if dot and stem and stem[-1] != "/" else (name, "")


def loosest_form(text: str) -> str:
    """Return the loosest form of an id: small letters, no ending, whole numbers without zeros
    before them."""
    text = tidy(text).casefold()
    text = text if text.isascii() else tidy(text)
    while "." in text and (shorter := without_ending(text)) != text:  # x.dcm.png
        text = shorter
    folder, slash, name = text.rpartition("/")
    number = NUMBER.fullmatch(name) if name[:1].isdigit() else None
    return folder + slash + (number[1] if number else name)


def key(text: str, depth: int = 1) -> str:
    """Return the key that all ids share which may mean one image: the last `depth` parts of the
    loosest form, without a frame's number."""
    return "/".join(loosest_form(without_frame(text)).split("/")[-depth:])


def num_parts(text: str) -> int:
    """Return the number of folders and names in an id, at least 1."""
    return max(1, len(tidy(text).split("/")))


def meet(paths: dict[str, str], texts: Iterable[str]) -> Meeting:
    """Return the Meeting of images {id: path} and ids of a label file that share a `key`.

    An equal id comes first. What is left meets by looser and looser forms, wherever one image and
    one id of the label file stand alone; a form that several share leaves it unclear.
    """
    met, unclear, elsewhere = _meet_by_id(paths, texts), {}, set()
    open_paths = {image_id: path for image_id, path in paths.items() if image_id not in met}
    free = set(texts).difference(*met.values())
    spent = set()  # texts that are unclear: no other image may have them
    for form in (tidy, without_ending, loosest_form):
        for claim in (_claims_of_paths, _claims_of_ends):
            claims = claim(open_paths, free - spent, form) if open_paths and free else {}
            claimants = Counter(text for claimed_texts in claims.values() for text in claimed_texts)
            for image_id, claimed_texts in claims.items():
                is_one_text = len(claimed_texts) == 1 or (
                    form is tidy and claim is _claims_of_paths
                )
                if is_one_text and all(claimants[text] == 1 for text in claimed_texts):
                    met[image_id] = claimed_texts
                    free.difference_update(claimed_texts)
                    elsewhere |= {image_id} if claim is _claims_of_ends else set()
                else:
                    unclear[image_id] = _unclear_message(image_id, claimed_texts, claims)
                    spent.update(claimed_texts)
                del open_paths[image_id]
    return Meeting(met, unclear, elsewhere, sorted(free))


def _meet_by_id(paths: dict[str, str], texts: Iterable[str]) -> dict[str, list[str]]:
    """Return {image id: the texts that are this id}, whatever the composition of letters; of images
    whose ids differ in that alone, each has only the text that equals it."""
    texts_by_form, ids_by_form = defaultdict(list), defaultdict(list)
    for text in sorted(texts):
        texts_by_form[tidy(text)].append(text)
    for image_id in paths:
        ids_by_form[tidy(image_id)].append(image_id)
    met = {}
    for form, image_ids in ids_by_form.items():
        texts_of_id = texts_by_form.get(form, [])
        if len(image_ids) == 1 and texts_of_id:
            met[image_ids[0]] = texts_of_id
        else:
            met |= {image_id: [image_id] for image_id in image_ids if image_id in texts_of_id}
    return met


def _claims_of_paths(
    paths: dict[str, str], texts: set[str], form: Callable[[str], str]
) -> dict[str, list[str]]:
    """Return {image id: the texts} whose form is that of the id, or of the end of the path."""
    texts_by_form = defaultdict(list)
    for text in sorted(texts):
        texts_by_form[form(text)].append(text)
    claims = {}
    for image_id, path in paths.items():
        forms = (form(image_id), *_ends(form(path)))
        texts_of_form = next((texts_by_form[end] for end in forms if end in texts_by_form), None)
        if texts_of_form:
            claims[image_id] = texts_of_form
    return claims


def _claims_of_ends(
    paths: dict[str, str], texts: set[str], form: Callable[[str], str]
) -> dict[str, list[str]]:
    """Return {image id: the texts} the end of whose form is that of the id: they name other, or
    more, folders than the path has."""
    texts_by_end = defaultdict(list)
    for text in sorted(texts):
        for end in _ends(form(text)):
            texts_by_end[end].append(text)
    forms = {image_id: form(image_id) for image_id in paths}
    return {name: texts_by_end[end] for name, end in forms.items() if end in texts_by_end}


def _ends(path: str) -> Iterator[str]:
    """Yield a path, then without its first folder, and so on to its name alone."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _unclear_message(image_id: str, claimed_texts: list[str], claims: dict[str, list[str]]) -> str:
    """Return the message about an image that shares its labels with others, or that several ids of
    labels may mean."""
    others = sorted(
        name for name in claims if name != image_id and set(claims[name]) & {*claimed_texts}
    )
    texts = " and ".join(repr(text) for text in claimed_texts[:3])
    if others:
        names = " and ".join(repr(name) for name in others[:3])
        return f"the label file's {texts} can mean {image_id!r} as well as {names}"
    return f"{image_id!r} can be meant by {texts} of the label file; expected one of them"
