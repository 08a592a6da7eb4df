"""Weights from a file into a network: of keras.applications, whole; of a radlake network, every
layer that has the same name and shapes, a level of an encoder under either of its names.

A .weights.h5 of Keras 3 keeps each layer's tensors under …/vars/0, 1, …, and its name beside them.
"""

import re

import h5py
import keras
import numpy as np

from lake import InputError, storage

INPUT = "images"  # the name of our networks' first layer; no network of keras.applications has it

NAMED = 12  # layers of each list in a report


def is_of_radlake(path: str) -> bool:
    stored = storage.path_of(path)
    if not stored.is_file():
        raise InputError(
            f'weights={path}: no such file; expected "imagenet", the weights of a network of '
            f"keras.applications without its top, or a .weights.h5 of radlake"
        )
    with storage.local(stored) as local:
        if not h5py.is_hdf5(local):
            raise InputError(f"weights={path}: not an HDF5 file, such as .weights.h5 or .h5")
        with h5py.File(local) as file:
            return (INPUT,) in names_and_tensors(file)


def load_application(network: keras.Model, path: str, title: str) -> None:
    """Every tensor, or an InputError."""
    try:
        with storage.local(storage.path_of(path)) as local:
            network.load_weights(local)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"weights={path}: not the weights of {title} without its top, as keras.applications "
            f"saves them: {error}"
        ) from error
    print(f"weights {path}: all {len(network.weights)} tensors of {title} loaded")


def load_radlake(network: keras.Model, path: str) -> None:
    """The layers that fit, with a report of the others; an InputError when none does."""
    with storage.local(storage.path_of(path)) as local, h5py.File(local) as file:
        stored = names_and_tensors(file)
    found = {alike(name): tensors for name, tensors in stored.items()}
    loaded, missing, mismatched = [], [], []
    layers = leaves(network)
    for name, layer in layers.items():
        title = "/".join(name)
        expected = [tuple(weight.shape) for weight in layer.weights]
        shapes = [tensor.shape for tensor in found.get(alike(name), [])]
        if shapes == expected:
            layer.set_weights(found[alike(name)])
            loaded.append(title)
        elif alike(name) in found:
            mismatched.append(f"{title} {shapes} instead of {expected}")
        else:
            missing.append(title)
    wanted = {alike(name) for name in layers}
    unused = ["/".join(n) for n, tensors in stored.items() if tensors and alike(n) not in wanted]
    report = [f"weights {path}: {len(loaded)} of {len(layers)} layers loaded"]
    titles = {"not in the file": missing, "another shape": mismatched, "in the file only": unused}
    report += [f"  {title}: {listed(names)}" for title, names in titles.items() if names]
    if not loaded:
        raise InputError("\n".join([*report, "nothing fits; is it another network's file?"]))
    print("\n".join(report))


def alike(name: tuple[str, ...]) -> tuple[str, ...]:
    """The name by which a layer is looked for: what U-Net and the classifier call level_2, U-Net++
    calls X(2,0) after its paper."""
    return (*name[:-1], re.sub(r"^x_(\d+)_0_", r"level_\1_", name[-1]))


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def leaves(network: keras.Model, above: tuple[str, ...] = ()) -> dict[tuple, keras.Layer]:
    """Layers with weights by their name; one inside an encoder has the encoder's before it."""
    found = {}
    for layer in network.layers:
        name = (*above, layer.name)
        if isinstance(layer, keras.Model):
            found |= leaves(layer, name)
        elif layer.weights:
            found[name] = layer
    return found


def copy(source: keras.Model, target: keras.Model) -> None:
    """Every weight of the target, from the source's layer of that name."""
    given = leaves(source)
    for name, layer in leaves(target).items():
        layer.set_weights(given[name].get_weights())


def names_and_tensors(group: h5py.Group, above: tuple[str, ...] = ()) -> dict[tuple, list]:
    """{names of the layer and of those around it: its tensors}, of a file of Keras 3; a file of
    Keras 2 has nothing under `layers`."""
    found = {}
    for child in group.get("layers", {}).values():
        stored = child.get("vars", {})
        name = (*above, stored.attrs.get("name", "") if stored else "")
        found[name] = [np.asarray(stored[key]) for key in sorted(stored, key=int)]
        found |= names_and_tensors(child, name)
    return found
