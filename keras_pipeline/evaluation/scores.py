"""Each photo's confidence, correctness and losses, which calibration and thresholds need, in one pass over the logits.

At full size the logits are [85,000, 9,000] on disk. They are read in blocks of rows; the vectors computed from them are
small.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from keras_pipeline.core.taxonomy import Rank
from keras_pipeline.evaluation.mapped import forget_pages
from keras_pipeline.evaluation.metrics import (
    by_blocks,
    check_labels,
    check_temperature,
    log_softmax,
    row_blocks,
)


@dataclasses.dataclass(frozen=True)
class Prior:
    """Each photo's region prior: what its region adds to the log-probability of each class, see `priors.log_ratios`."""

    added: NDArray[np.float64]  # [R, C]
    row: NDArray[np.intp]  # [n], each photo's row of `added`

    def of(self, rows: slice | NDArray) -> NDArray[np.float64]:
        """Return the log-ratios of these photos, float64 [m, C]."""
        return self.added[self.row[rows]]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Aligned arrays over n photos; `ranks` are those above the species that were asked about, such as the genus."""

    confidence: NDArray[np.float64]  # the highest class probability, in [1/C, 1]
    correct: NDArray[np.bool_]  # the first class with the highest logit is the label
    nll: NDArray[np.float64]  # -log p(label), nats
    brier: NDArray[np.float64]  # Σ (p - onehot)^2 over classes, in [0, 2] (Brier 1950)
    rank_confidence: NDArray[np.float64]  # [n, ranks], the highest sum of probabilities over the species of a taxon
    rank_correct: NDArray[np.bool_]  # [n, ranks], that taxon is the label's

    @classmethod
    def concatenated(cls, blocks: "Sequence[Scores]") -> "Scores":
        """Join the scores of consecutive photos."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})

    def __len__(self) -> int:
        return len(self.confidence)

    def __getitem__(self, rows: NDArray | slice) -> "Scores":
        return Scores(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def only(self, answered: NDArray[np.bool_]) -> "Scores":
        """Return them with confidence 0, which no threshold accepts, where a photo is not `answered`, bool [n]."""
        confidence, ranks = self.confidence * answered, self.rank_confidence * answered[:, None]
        return dataclasses.replace(self, confidence=confidence, rank_confidence=ranks)

    def of_rank(self, index: int) -> "Scores":
        """Return them with the confidence and correctness of the answers about a rank."""
        confidence, correct = self.rank_confidence[:, index], self.rank_correct[:, index]
        return dataclasses.replace(self, confidence=confidence, correct=correct)


def score(
    logits: ArrayLike,
    labels: ArrayLike,
    temperature: float = 1.0,
    *,
    prior: Prior | None = None,
    ranks: Sequence[Rank] = (),
) -> Scores:
    """Score the probabilities softmax(logits / temperature + prior).

    Args:
        logits: [n, C], finite; may be memory-mapped.
        labels: integer [n], in [0, C).
        temperature: > 0.
        prior: None adds nothing.
        ranks: those above the species to answer about too.

    Raises:
        ValueError: shapes that do not match, no photos, NaN or infinite logits, labels out of range, temperature not
            above 0.
    """
    logits, labels = check_labels(logits, labels)
    check_temperature(temperature)
    members = [_membership(rank) for rank in ranks]

    def block_scores(rows: slice, block: NDArray) -> Scores:
        photo, label = np.arange(len(block)), labels[rows]
        # In float64, because equal-mass bins and thresholds depend on the order of confidences 1e-9 apart.
        exponent = np.divide(block, temperature, dtype=np.float64)
        if prior is not None:
            exponent += prior.of(rows)
        # From the logits, because probabilities round to ties that the logits don't have.
        answer = exponent.argmax(axis=1)
        exponent -= exponent[photo, answer][:, None]
        own = exponent[photo, label]
        weight = np.exp(exponent, out=exponent)
        total, own_weight = weight.sum(axis=1), weight[photo, label]
        confidence, correct = 1 / total, answer == label
        rank_confidence, rank_correct = np.empty((len(block), len(ranks))), np.empty((len(block), len(ranks)), bool)
        for index, (rank, member) in enumerate(zip(ranks, members, strict=True)):
            by_taxon = weight @ member
            taxon = by_taxon.argmax(axis=1)
            sure = np.minimum(by_taxon[photo, taxon] / total, 1.0)  # sums may round above 1
            rank_confidence[:, index] = np.where(np.array(rank.taxa)[taxon] == "", 0.0, sure)  # nothing to name
            rank_correct[:, index] = taxon == np.array(rank.members)[label]
        return Scores(
            confidence=confidence,
            correct=correct,
            nll=np.log(total) - own,
            brier=np.square(weight, out=weight).sum(axis=1) / total**2 - 2 * own_weight / total + 1,
            rank_confidence=rank_confidence,
            rank_correct=rank_correct,
        )

    return Scores.concatenated(by_blocks(logits, block_scores))


def _membership(rank: Rank) -> csr_array:
    """Return [C, taxa], 1 where the class belongs to the taxon."""
    classes = len(rank.members)
    return csr_array((np.ones(classes), (np.arange(classes), rank.members)), shape=(classes, len(rank.taxa)))


def together(
    logits: ArrayLike, temperature: float, member: ArrayLike, count: int
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Combine several photos of one plant: the mean of their log-probabilities.

    Args:
        logits: [n, C], finite; may be memory-mapped.
        temperature: > 0, divides the logits.
        member: integer [n], in [0, count): the plant in each photo; -1 leaves the photo out.
        count: m, number of plants; each has a photo.

    Yields:
        (plants, float32 [k, C]), block after block: logits of the plants, to be used at temperature 1.
    """
    logits, member = np.asanyarray(logits), np.asarray(member)  # a memory map stays one
    order = np.argsort(member, kind="stable")
    order = order[np.searchsorted(member[order], 0) :]
    firsts = np.searchsorted(member[order], np.arange(count + 1))
    for plants in row_blocks((count, logits.shape[1])):
        begins = firsts[plants.start : plants.stop + 1]
        mean = log_softmax(logits[order[begins[0] : begins[-1]]], temperature)
        forget_pages(logits)
        mean = np.add.reduceat(mean, begins[:-1] - begins[0], axis=0)
        yield plants, (mean / np.diff(begins)[:, None]).astype(np.float32)
