"""Trained networks with their thresholds become a SavedModel (graph.py) or an ONNX file
(onnx_graph.py), and beside it export.json, which describes it for people and for beam.predict.
"""

import json
from pathlib import Path

from tensorflow.types.experimental import ConcreteFunction

from lake import storage
from lake.predictions import exported, tfio
from lake.predictions.exported import DESCRIPTION, ONNX, ONNX_MODEL, PIXELS, SAVED, TFIO
from lake.sources.reader import ReaderSettings
from lake.terminal.progress import Progress
from trainer import provenance, workdir
from trainer.inference import images, kinship
from trainer.inference.decision import Decision, chosen_label, describe_masks, read_decision_or_none
from trainer.inference.ensemble import Ensemble
from trainer.serving import graph, onnx_graph, output_folder


def export(
    ensemble: Ensemble,
    output: Path,
    decoder: str,
    lake: str | None = None,
    any_modality: bool = False,
    file_format: str = SAVED,
) -> str:
    """Write the new folder `output`, whole or not at all; return what to print. `lake`: that whose
    thresholds may be taken where none were chosen on the runs' own; `any_modality`: the signature
    of DICOM files takes those that show what the lake of the runs did not have; `file_format`: as
    in --format."""
    label = kinship.lake_in_use(ensemble, lake).label(ensemble) if lake else None
    decision = check(ensemble, label)
    with output_folder.whole(output) as folder:
        if file_format == ONNX:
            outputs = ", ".join(write_onnx(ensemble, decision, folder, label))
            summary = f"{output}: an ONNX file with the outputs {outputs}; {decision}"
            return f"{summary}\n{_onnx_example(output / ONNX_MODEL)}"
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
    text = description(ensemble, decision, settings, decoder, functions, other_label)
    storage.write(folder / DESCRIPTION, text.encode())
    return list(functions)


def write_onnx(
    ensemble: Ensemble, decision: Decision, folder: Path, other_label: str | None = None
) -> list[str]:
    """Write the export as ONNX into an existing folder; return the names of its outputs. Raises
    InputError for networks that do not go into such a file."""
    onnx_graph.check_size(num_parameters(ensemble))
    settings = images.reader_settings(ensemble)
    calibrated = ensemble.with_calibration(decision.calibration)
    steps = Progress("exporting", 2, "steps")
    steps.update(0)
    function = onnx_graph.trace(graph.Server(calibrated, decision, settings.storage))
    traced = function.get_concrete_function()
    steps.add()
    text = description(ensemble, decision, settings, None, {PIXELS: traced}, other_label)
    storage.write(folder / ONNX_MODEL, onnx_graph.convert(function, text))
    storage.write(folder / DESCRIPTION, text.encode())
    steps.add()
    return sorted(traced.structured_outputs)


def description(
    ensemble: Ensemble,
    decision: Decision,
    settings: ReaderSettings,
    decoder: str | None,
    functions: dict[str, ConcreteFunction],
    other_label: str | None = None,
) -> str:
    """Return the text of export.json. `decoder`: as in --decoder; None for an ONNX file, which
    decodes no files."""
    further_packages = {None: ["onnx", "tf2onnx"], TFIO: ["tensorflow-io"]}.get(decoder, [])
    content = {
        "format": ONNX if decoder is None else SAVED,
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
        "packages": provenance.packages(*further_packages),
        "commit": provenance.commit(),
    }
    content["evaluated_as"] = chosen_label(ensemble, other_label)
    text = json.dumps(content, indent=1).replace(str(Path.home()), "~")
    return f"{text}\n"


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


def _onnx_example(path: Path) -> str:
    """Return a line of Python that calls an ONNX file."""
    return f'onnxruntime.InferenceSession("{path}").run(None, {{"pixels": …, "window": …}})'
