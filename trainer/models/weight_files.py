"""Weights from a file into a network: those of a network of keras.applications, whole; those of a
radlake network, every layer that has the same name and shapes.

A .weights.h5 of Keras 3 keeps each layer's tensors under …/vars/0, 1, …, and its name beside them.
"""

import re
from pathlib import Path

import h5py
import keras
import numpy as np

from lake import InputError, storage

# What Keras and h5py raise for a file that is damaged or of another network.
ERRORS = (ValueError, KeyError, OSError)
INPUT = "images"  # the name of our networks' first layer; no network of keras.applications has it
MOST_NAMES = 12  # of the layers that a report lists


def is_radlake_file(path: str) -> bool:
    """Return whether a radlake network wrote these weights; raise InputError where the file is not
    HDF5."""
    file_path = storage.path_of(path)
    if not file_path.is_file():
        raise InputError(
            f'weights={path}: no such file; expected "imagenet", the weights of a network of '
            f"keras.applications without its top, or a .weights.h5 of radlake"
        )
    with storage.local(file_path) as local:
        if not h5py.is_hdf5(local):
            raise InputError(f"weights={path}: not an HDF5 file, such as .weights.h5 or .h5")
        try:
            with h5py.File(local) as file:
                return (INPUT,) in read_tensors(file)
        except ERRORS as error:
            raise InputError(f"weights={path}: {_damage(error)}") from None


def load_application(network: keras.Model, path: str, title: str) -> None:
    """Load every tensor of a network of keras.applications, or raise InputError."""
    try:
        with storage.local(storage.path_of(path)) as local:
            network.load_weights(local)
    except ERRORS:
        misfit = first_misfit(network, path)
        raise InputError(
            f"weights={path}: not the weights of {title} without its top, as keras.applications "
            f"saves them{misfit and f': {misfit}'}"
        ) from None
    print(f"weights {path}: all {len(network.weights)} tensors of {title} loaded")


def load_radlake(network: keras.Model, path: str) -> None:
    """Load the layers that fit and print which do not; raise InputError if none fits."""
    with storage.local(storage.path_of(path)) as local, h5py.File(local) as file:
        in_file = {
            shared_name(name): (name, [np.asarray(tensor) for tensor in tensors])
            for name, tensors in read_tensors(file).items()
        }
    matches, gaps, misfits = [], [], []
    layers = layers_with_weights(network)
    for name, layer in layers.items():
        title, (_, tensors) = "/".join(name), in_file.pop(shared_name(name), (name, None))
        expected = [tuple(weight.shape) for weight in layer.weights]
        shapes = [tensor.shape for tensor in tensors or []]
        if tensors is None:
            gaps.append(title)
        elif shapes != expected:
            misfits.append(f"{title} {shapes} instead of {expected}")
        else:
            layer.set_weights(tensors)
            matches.append(title)
    extras = ["/".join(name) for name, tensors in in_file.values() if tensors]
    report = [f"weights {path}: {len(matches)} of {len(layers)} layers loaded"]
    titles = {"not in the file": gaps, "another shape": misfits, "in the file only": extras}
    for title, names in titles.items():
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        report += [f"  {title}: {', '.join(names[:MOST_NAMES])}{more}"] if names else []
    if not matches:
        raise InputError(
            f"weights={path}: none of the {len(layers)} layers fits, so it is another network's "
            f"file; {first_misfit(network, path)}"
        )
    print("\n".join(report))


def first_misfit(network: keras.Model, path: str | Path) -> str:
    """Return a message on the first layer of the network that a file of weights does not fit, with
    the shapes that it expects and those in the file, or on damage of the file; "" where all layers
    fit."""
    try:
        with storage.local(storage.path_of(path)) as local, h5py.File(local) as file:
            shapes_in_file = {
                shared_name(name): [tensor.shape for tensor in tensors]
                for name, tensors in read_tensors(file).items()
                if tensors
            }
    except ERRORS as error:
        return _damage(error)
    message = ""  # on the first layer that the file lacks; a wrong shape goes first
    for name, layer in layers_with_weights(network).items():
        expected = [tuple(weight.shape) for weight in layer.weights]
        shapes = shapes_in_file.get(shared_name(name), [])
        title = f"layer {'/'.join(name)} expects weights of {expected}"
        if shapes and shapes != expected:
            return f"{title}, the file has {shapes}"
        message = message or ("" if shapes else f"{title}, the file has none of that name")
    return message


def _damage(error: Exception) -> str:
    """Return the message about a file that is no whole HDF5 file, in one line."""
    return f"cut short or damaged; copy it again ({' '.join(str(error).split())[:200]})"


def shared_name(name: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name that a layer has in every network: X(2,0) of a U-Net++, named after its
    paper, is level_2 of a U-Net and of a classifier."""
    return (*name[:-1], re.sub(r"^x_(\d+)_0_", r"level_\1_", name[-1]))


def layers_with_weights(
    network: keras.Model, parents: tuple[str, ...] = ()
) -> dict[tuple, keras.Layer]:
    """Return the layers that have weights by their names; a layer inside an encoder has the
    encoder's name before its own."""
    layers = {}
    for layer in network.layers:
        name = (*parents, layer.name)
        if isinstance(layer, keras.Model):
            layers |= layers_with_weights(layer, name)
        elif layer.weights:
            layers[name] = layer
    return layers


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Set every weight of the target to that of the source's layer of the same name."""
    source_layers = layers_with_weights(source)
    for name, layer in layers_with_weights(target).items():
        layer.set_weights(source_layers[name].get_weights())


def read_tensors(
    group: h5py.Group, parents: tuple[str, ...] = ()
) -> dict[tuple, list[h5py.Dataset]]:
    """Return {names of the layer and of those around it: its tensors, not yet read} of an open file
    of Keras 3; a file of Keras 2 has nothing under `layers`."""
    tensors = {}
    for child in group.get("layers", {}).values():
        variables = child.get("vars", {})
        name = (*parents, variables.attrs.get("name", "") if variables else "")
        tensors[name] = [variables[key] for key in sorted(variables, key=int)]
        tensors |= read_tensors(child, name)
    return tensors
