"""Weights from one model into another, layer by layer, mismatches named."""

from __future__ import annotations

import keras


def copy_layers(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of every layer of `target` from the layer of the same name in `source`.

    Raises ValueError listing every layer that is missing in `source` or has other shapes.
    """
    donors = {layer.name: layer for layer in source.layers}
    faults = []
    for layer in (layer for layer in target.layers if layer.weights):
        donor = donors.get(layer.name)
        shapes = [tuple(w.shape) for w in layer.weights]
        received = [tuple(w.shape) for w in donor.weights] if donor else "no such layer"
        if shapes == received:
            layer.set_weights(donor.get_weights())
        else:
            faults.append(f"{layer.name}: received {received}, expected {shapes}")
    if faults:
        raise ValueError("these weights are of another model:\n  " + "\n  ".join(faults))
