"""Trained networks with their thresholds become a SavedModel (graph.py), and beside it export.json,
which describes it for people and for beam.predict.
"""

import json
from pathlib import Path

from tensorflow.types.experimental import ConcreteFunction

from lake import storage
from lake.predictions import exported, tfio
from lake.predictions.exported import DESCRIPTION, PIXELS, TFIO
from lake.sources.reader import ReaderSettings
from lake.terminal.progress import Progress
from trainer import provenance, workdir
from trainer.inference import images, kinship
from trainer.inference.decision import Decision, chosen_label, describe_masks, read_decision_or_none
from trainer.inference.ensemble import Ensemble
from trainer.serving import graph, output_folder


def export(
    ensemble: Ensemble,
    output: Path,
    decoder: str,
    lake: str | None = None,
    any_modality: bool = False,
) -> str:
    """Write the new folder `output`, whole or not at all; return what to print. `lake`: that whose
    thresholds may be taken where none were chosen on the runs' own; `any_modality`: the signature
    of DICOM files takes those that show what the lake of the runs did not have."""
    label = kinship.lake_in_use(ensemble, lake).label(ensemble) if lake else None
    decision = check(ensemble, label)
    with output_folder.whole(output) as folder:
        names = write(ensemble, decision, folder, decoder, label, any_modality)
    summary = f"{output}: a SavedModel with the signatures {', '.join(names)}; {decision}"
    return f"{summary}\n{example(output, names, decoder)}"


def check(ensemble: Ensemble, other_label: str | None = None) -> Decision:
    """Return the thresholds that evaluate chose; raise InputError for what cannot be exported."""
    ensemble.check_has_answers()
    return read_decision_or_none(ensemble, other_label)


def write(
    ensemble: Ensemble,
    decision: Decision,
    folder: Path,
    decoder: str,
    other_label: str | None = None,
    any_modality: bool = False,
) -> list[str]:
    """Write the export into an existing folder; return the names of its signatures."""
    settings = images.reader_settings(ensemble)._replace(any_modality=any_modality)
    calibrated = ensemble.with_calibration(decision.calibration)
    server = graph.Server(calibrated, decision, settings.storage)
    traces, functions = graph.signatures(server, settings, decoder), {}
    level = f" L{ensemble.level}" if ensemble.level else ""
    steps = Progress(f"exporting{level}", len(traces) + 1, "steps")
    steps.update(0)
    for name, trace in traces.items():
        functions[name] = trace()
        steps.add()
    graph.save(functions, str(folder))
    steps.add()
    content = description(ensemble, decision, settings, decoder, functions)
    content["evaluated_as"] = chosen_label(ensemble, other_label)
    text = json.dumps(content, indent=1).replace(str(Path.home()), "~")
    storage.write(folder / DESCRIPTION, f"{text}\n".encode())
    return list(functions)


def description(
    ensemble: Ensemble,
    decision: Decision,
    settings: ReaderSettings,
    decoder: str,
    functions: dict[str, ConcreteFunction],
) -> dict:
    """Return the content of export.json."""
    return {
        **describe_masks(ensemble, decision),
        **({"findings": list(ensemble.findings)} if ensemble.findings else {}),
        "segmenters": [member.config.model_dump(mode="json") for member in ensemble.segmenters],
        "classifiers": [member.config.model_dump(mode="json") for member in ensemble.classifiers],
        "parameters": num_parameters(ensemble),
        "lake": workdir.read_json(ensemble.members[0].workdir / workdir.LAKE),
        "stored": exported.settings_to_json(settings),
        "decoder": decoder,
        "any_modality": settings.any_modality,
        "signatures": {name: _signature(function) for name, function in functions.items()},
        "packages": provenance.packages(*(["tensorflow-io"] if decoder == TFIO else [])),
        "commit": provenance.commit(),
    }


def num_parameters(ensemble: Ensemble) -> int:
    """Return the number of weights of all members."""
    return sum(member.network.count_params() for member in ensemble.everyone)


def _signature(function: ConcreteFunction) -> dict:
    """Return {"inputs": {name: [dtype, shape]}, "outputs": …} of a signature."""
    inputs = function.structured_input_signature[0]
    outputs = function.structured_outputs
    return {
        "inputs": {spec.name: _spec(spec) for spec in inputs},
        "outputs": {name: _spec(outputs[name]) for name in sorted(outputs)},
    }


def _spec(spec) -> list:
    return [spec.dtype.name, spec.shape.as_list()]


def example(output: Path, names: list[str], decoder: str) -> str:
    """Return a line of Python that calls the export."""
    load = f'tf.saved_model.load("{output}")'
    load = f"{tfio.LOADING}; {load}" if decoder == TFIO else load
    if graph.DEFAULT not in names:
        return f'{load}.signatures["{PIXELS}"](pixels=…, window=…)'
    call = f'signatures["{graph.DEFAULT}"](files=tf.constant([open("a.dcm", "rb").read()]))'
    return f"{load}.{call}"
