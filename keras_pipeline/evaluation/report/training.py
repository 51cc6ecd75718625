"""Pictures of a training under way, in TensorBoard and beside its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.evaluation.metrics import recall_by_train_photos
from keras_pipeline.evaluation.predict import inference
from keras_pipeline.evaluation.report import confusions, pictures, recalls

SHOWN = 24  # photos of the batch
JUDGED = 2048  # photos of the val split: at full size a second pass over all of it would take minutes
NAMED = 0.01  # a smaller share of a label is smoothing


class Pictures(keras.callbacks.Callback):
    """augmented_batch.png, what the model is first shown, and after each epoch how it judges photos.

    That is confusion.png, and recall_by_train_photos.png where species differ in their number.
    """

    def __init__(
        self,
        folder: Path,
        batches: Callable[[range, int], tf.data.Dataset],
        validation: tf.data.Dataset,
        train_photos: Mapping[str, int],
    ) -> None:
        """
        Args:
            folder: of the stage; TensorBoard's part goes to folder/logs/pictures.
            batches: (epochs, steps done) -> (image [N, S, S, 3] in 0..255, label [N, C]).
            validation: {image, label, group_id} of the val split, in an order by chance, as `evaluation_batches`.
            train_photos: {latin_name: photos} of the C classes, in their order.
        """
        super().__init__()
        self._folder, self._batches, self._validation = folder, batches, validation
        self._classes, self._train_photos = list(train_photos), list(train_photos.values())

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._writer = tf.summary.create_file_writer(str(self._folder / "logs/pictures"))
        self._infer = inference(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        path = self._folder / "augmented_batch.png"
        if epoch == 0 or not path.exists():
            images, labels = next(iter(self._batches(range(epoch, epoch + 1), 0).take(1)))
            captions = [caption(label, self._classes) for label in labels.numpy()[:SHOWN]]
            self._show("augmented batch", pictures.photo_grid(images.numpy()[:SHOWN], captions, path), epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        judged = [
            (self._infer(batch["image"]).argmax(axis=1), batch["label"].numpy(), batch["group_id"].numpy())
            for batch in self._validation.unbatch().take(JUDGED).batch(64)
        ]
        answers, labels, group_ids = map(np.concatenate, zip(*judged, strict=True))
        table = confusions.confusion_picture(labels, answers, self._classes, self._folder / "confusion.png")
        self._show("confusion", table, epoch)
        rows = recall_by_train_photos(answers == labels, labels, group_ids, self._train_photos)
        if len(rows) > 1:
            curve = recalls.recall_curve(rows, self._folder / "recall_by_train_photos.png")
            self._show("recall by train photos", curve, epoch)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._writer.close()

    def _show(self, title: str, picture: np.ndarray, epoch: int) -> None:
        with self._writer.as_default(step=epoch):
            tf.summary.image(title, picture[None])


def caption(label: np.ndarray, classes: Sequence[str]) -> str:
    """The names in a label [C], the largest share first, e.g. '70 % Viola alba + 30 % Papaver rhoeas'."""
    background = label.min() if len(label) > 2 else 0.0
    order = [int(i) for i in np.argsort(-label, kind="stable") if label[i] - background > NAMED]
    if len(order) == 1:
        return classes[order[0]]
    return " + ".join(f"{100 * label[i]:.0f} % {classes[i]}" for i in order)
