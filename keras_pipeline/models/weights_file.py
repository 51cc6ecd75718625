"""What a `.weights.h5` file holds, read without TensorFlow, so that a wrong one is known before any work."""

from __future__ import annotations

from pathlib import Path

from keras_pipeline.core.config.teachers import VIT_NAME, VIT_SIZES, Model

HDF5 = b"\x89HDF\r\n\x1a\n"  # how such a file begins
BLOCK = "layers/vi_t_encoder/encoder_layers/vi_t_encoder_block"


def stored_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} of a `.weights.h5` file.

    Raises:
        ValueError: if it can't be read.
    """
    import h5py  # 0.3 s, which runs without such a file do without

    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with h5py.File(path) as file:
            file.visititems(
                lambda key, item: shapes.update({key: item.shape}) if isinstance(item, h5py.Dataset) else None
            )
    except (OSError, RuntimeError) as error:  # of a file that is cut or altered, whichever part of it is read
        raise ValueError(
            f"{path}: received no readable HDF5 file ({error}), expected a .weights.h5 of Keras"
        ) from error
    return shapes


def fault(path: Path, model: Model) -> str | None:
    """Return why a network can't load its weights from a path; None where it looks as if it could.

    Of the shapes those are compared that tell one network and width from another; loading compares all of them.
    """
    if not path.is_file():
        return f"{'is a directory' if path.is_dir() else 'does not exist'}; expected a .weights.h5 file"
    if not path.name.endswith(".weights.h5"):  # another suffix is another format to Keras
        return "does not end in .weights.h5; expected a .weights.h5 file"
    with path.open("rb") as file:
        if file.read(len(HDF5)) != HDF5:
            return "is no HDF5 file; expected a .weights.h5 file"
    try:
        received = stored_shapes(path)
    except ValueError:
        return "is no whole HDF5 file; expected a .weights.h5 file; copy it again"
    for key, shape in telling_shapes(model).items():
        if received.get(key) != shape:
            return (
                f"does not fit {model.title} ({key}: received {received.get(key, 'none')}, expected {shape}); expected "
                "a .weights.h5 file of that network; give one, or the name and the alpha of the file's network"
            )
    return None


def telling_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} of those weights in a network's file that no file of another network or width has."""
    if match := VIT_NAME.fullmatch(model.name):
        layers, heads, width = VIT_SIZES[match[1]]
        patch = int(match[2])
        return {
            "layers/vi_t_patching_and_embedding/patch_embedding/vars/0": (patch, patch, 3, width),
            f"{BLOCK}_{layers - 1}/mha/key_dense/vars/0": (width, heads, width // heads),
        }
    features = channels(1280 * max(model.alpha, 1.0))
    return {
        "layers/conv2d_34/vars/0": (1, 1, channels(int(320 * model.alpha)), features),
        "layers/dense/vars/0": (features, 1000),
    }


def channels(wanted: float) -> int:
    """Round a width of MobileNetV2, times alpha, to a multiple of 8, by no more than a tenth downwards."""
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
