"""Trained networks with their thresholds -> a SavedModel (trainer/serving/graph.py) and, beside it,
export.json: what it is, for a person and for beam.predict.
"""

import json
from pathlib import Path

from tensorflow.types.experimental import ConcreteFunction

from lake import storage
from lake.predictions import exported, tfio
from lake.predictions.exported import DESCRIPTION, PIXELS, TFIO
from lake.sources.reader import ReaderSettings
from trainer import provenance, workdir
from trainer.inference import decision, images
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.serving import graph


def export(ensemble: Ensemble, output: Path, decoder: str) -> str:
    """Writes the new folder `output`, whole or not at all; returns what to print."""
    chosen = check(ensemble)
    with storage.whole_folder(output) as folder:
        names = write(ensemble, chosen, folder, decoder)
    said = f"{output}: a SavedModel with the signatures {', '.join(names)}; {chosen}"
    return f"{said}\n{example(output, names, decoder)}"


def check(ensemble: Ensemble) -> Decision:
    """The thresholds that evaluate chose; raises InputError for what cannot be exported."""
    ensemble.check_draws_masks()
    return decision.read(ensemble)


def write(ensemble: Ensemble, chosen: Decision, folder: Path, decoder: str) -> list[str]:
    """Into an existing folder; returns the names of the signatures."""
    stored = images.reader_settings(ensemble)
    server = graph.Server(ensemble, chosen, stored.storage)
    found = graph.signatures(server, stored, decoder)
    graph.save(found, str(folder))
    described = description(ensemble, chosen, stored, decoder, found)
    text = json.dumps(described, indent=1).replace(str(Path.home()), "~")
    storage.write(folder / DESCRIPTION, f"{text}\n".encode())
    return list(found)


def description(
    ensemble: Ensemble,
    chosen: Decision,
    stored: ReaderSettings,
    decoder: str,
    found: dict[str, ConcreteFunction],
) -> dict:
    return {
        "evaluated_as": ensemble.label,  # in metrics.json of the first workdir
        "decision": chosen.to_json(),
        "tta": list(ensemble.tta),
        "level": ensemble.level,
        "segmenters": [member.run.model_dump(mode="json") for member in ensemble.segmenters],
        "classifiers": [member.run.model_dump(mode="json") for member in ensemble.classifiers],
        "weights_sha256": ensemble.weights_sha256(),
        "parameters": num_parameters(ensemble),
        "lake": workdir.read_json(ensemble.members[0].workdir / workdir.LAKE),
        "stored": exported.settings_to_json(stored),
        "decoder": decoder,
        "signatures": {name: _told(function) for name, function in found.items()},
        "packages": provenance.packages(*["tensorflow-io"] * (decoder == TFIO)),
        "commit": provenance.commit(),
    }


def num_parameters(ensemble: Ensemble) -> int:
    return sum(member.network.count_params() for member in ensemble.everyone)


def _told(function: ConcreteFunction) -> dict:
    """{"inputs": {name: [dtype, shape]}, "outputs": …} of a signature."""
    inputs = function.structured_input_signature[0]
    outputs = function.structured_outputs
    return {
        "inputs": {spec.name: _spec(spec) for spec in inputs},
        "outputs": {name: _spec(outputs[name]) for name in sorted(outputs)},
    }


def _spec(spec) -> list:
    return [spec.dtype.name, spec.shape.as_list()]


def example(output: Path, names: list[str], decoder: str) -> str:
    """A line of Python that calls it."""
    loaded = f'tf.saved_model.load("{output}")'
    loaded = f"{tfio.LOADING}; {loaded}" if decoder == TFIO else loaded
    if graph.DEFAULT not in names:
        return f'{loaded}.signatures["{PIXELS}"](pixels=…, window=…)'
    called = f'signatures["{graph.DEFAULT}"](files=tf.constant([open("a.dcm", "rb").read()]))'
    return f"{loaded}.{called}"
