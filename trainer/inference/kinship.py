"""Which lake an ensemble is used on, and what that lake is to its runs: the one that they learnt
from, an earlier or later version of it, or an external one, which has to be named.

In: an ensemble, and the lake that --lake names. Out: a LakeInUse, or an InputError.
"""

from typing import NamedTuple

from lake import InputError, exam, storage
from lake.records import manifest
from lake.records.identity import ancestry, identity, title
from trainer.data import seen
from trainer.data.seen import Seen
from trainer.inference.ensemble import Ensemble
from trainer.inference.views import Member
from trainer.workdir import LAKE, SEEN, read_json

# What a lake can be to a run, in the words of the results.
OWN, UNVERIFIED, LATER, EARLIER, FURTHER, EXTERNAL = (
    "the run's lake",
    "the run's lake by its path alone (a run of an earlier radlake has no checksum of it)",
    "a later version of the run's lake",
    "an earlier version of the run's lake",
    "one of the run's further lakes (data.more_lakes)",
    "external lake",
)
KIN = (OWN, UNVERIFIED, LATER, EARLIER)


class LakeInUse(NamedTuple):
    """A lake, and what it is to the members of an ensemble."""

    folder: str
    manifest: dict
    is_own: bool  # a member learnt from it, or from a version before or after it
    notes: list[str]  # what a reader of the results has to know about it, as sentences

    @property
    def title(self) -> str:
        return title(identity(self.manifest))

    def label(self, ensemble: Ensemble) -> str:
        """Return the name of the ensemble's scores on this lake in metrics.json."""
        content = self.manifest
        suffix = "" if self.is_own else f"_on_{content['dataset']}_{content['version']}"
        return ensemble.label + suffix


def lake_in_use(ensemble: Ensemble, lake: str | None) -> LakeInUse:
    """Return the lake that --lake names; where it names none, the lake of the runs, or InputError
    where they learnt from another lake than is there now."""
    folder = lake or ensemble.trained_on()
    content = manifest.load(folder)
    relations = [(member, relation(member, folder, content)) for member in ensemble.everyone]
    strangers = [member for member, kind in relations if kind not in KIN]
    if lake is None and strangers:
        raise InputError(
            f"{folder} is {title(identity(content))} now, and {strangers[0].workdir} learnt from "
            f"{_own_title(strangers[0])}; put that lake back, or use this one as an external lake: "
            f"--lake {folder}"
        )
    is_own = len(strangers) < len(relations)
    notes = [
        f"{kind[0].upper()}{kind[1:]}: {folder}, {title(identity(content))}; {member.workdir} "
        f"learnt from {_own_title(member)}."
        for member, kind in relations
        if kind != OWN
    ]
    return LakeInUse(folder, content, is_own, notes + _other_exams(folder, content, relations))


def _other_exams(folder: str, content: dict, relations: list[tuple[Member, str]]) -> list[str]:
    """Return sentences about the modality and body part of a lake that members did not learn from,
    once for members that learnt from the same images."""
    sentences, counts, compared = [], content["counts"].get("exams"), []
    for member, kind in relations:
        learnt = exam.total(lake and lake.get("exams") for lake in run_lakes(member))
        if kind in (OWN, UNVERIFIED) or learnt in compared:
            continue
        compared.append(learnt)
        if difference := exam.lake_difference(counts, learnt):
            sentences.append(
                f"{folder} has images of a kind that the networks in {member.workdir} did not "
                f"learn from: {difference}."
            )
        if kind == EXTERNAL and (fault := exam.lake_not_compared(counts, learnt)):
            sentences.append(
                f"Whether {folder} shows what the networks in {member.workdir} learnt from is not "
                f"known: {fault}."
            )
    return sentences


def relation(member: Member, folder: str, content: dict) -> str:
    """Return the relation of the lake with this manifest to the run of a member: OWN, LATER …"""
    shards = identity(content)["shards"]
    own_lake, *further_lakes = run_lakes(member)
    if own_lake is None:
        is_same_path = storage.whole_path(folder) == storage.whole_path(str(member.config.lake))
        return UNVERIFIED if is_same_path else EXTERNAL
    if shards == own_lake["shards"]:
        return OWN
    if own_lake["shards"] in _earlier_shards(content):
        return LATER
    if shards in {lake["shards"] for lake in own_lake["earlier_lakes"]}:
        return EARLIER
    if shards in {lake["shards"] for lake in further_lakes}:
        return FURTHER
    return EXTERNAL


def run_lakes(member: Member) -> list[dict | None]:
    """Return the descriptions of the lakes that a run learnt from, as its lake.json has them: first
    that of config.lake, or None where it is not known, then those of data.more_lakes."""
    content, config = read_json(member.workdir / LAKE), member.config
    if "lakes" in content:
        return content["lakes"]
    # The run started before lake.json had them, and has one checksum of all its lakes.
    dataset, _, version = str(config.lake).rstrip("/").rpartition("/")
    own_lake = {"dataset": dataset.rpartition("/")[2], "version": version, "earlier_lakes": []}
    if not config.data.more_lakes and "shards" in content:
        return [own_lake | {"shards": content["shards"]}]
    return [None]


def _earlier_shards(content: dict) -> set[str]:
    """Return the checksums of the versions whose splits a lake keeps."""
    earlier_lakes = ancestry(content)[1:]
    folder = content["options"].get("splits_from")
    if not earlier_lakes and folder and "earlier_lakes" not in content:
        try:  # a lake of before this field: what lies there now
            earlier_lakes = ancestry(manifest.load(folder))
        except InputError:
            return set()
    return {lake["shards"] for lake in earlier_lakes}


def _own_title(member: Member) -> str:
    """Return the lake of a run in words."""
    own_lake = run_lakes(member)[0]
    return title(own_lake) if own_lake else f"a lake that was at {member.config.lake}"


def seen_by(ensemble: Ensemble) -> tuple[Seen, list[str]]:
    """Return the images that the runs of all members saw, and a sentence for each run whose images
    are not known any more."""
    parts, notes = [], []
    for member in ensemble.everyone:
        config, shards = member.config, read_json(member.workdir / LAKE).get("shards")
        part = seen.recall(member.workdir / SEEN, config.lake, config.data, shards)
        if part is None:
            notes.append(
                f"Which images {member.workdir} learnt from is not known: its lake is not at "
                f"{config.lake} any more, so images of it may be among those that were scored."
            )
        else:
            parts.append(part)
    return seen.unite(parts), notes
