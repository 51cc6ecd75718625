"""Section `phase0`: audit, downloads, split and baseline."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from keras_pipeline.core.config.base import FILE, Section
from keras_pipeline.core.config.teachers import Model


class Audit(Section):
    """What the audit reports."""

    min_per_species: int = Field(20, ge=1, description="photos; species with fewer are listed as rare")


class ValidateUrls(Section):
    """The number of URLs to check."""

    sample: int | None = Field(5000, ge=1, description="URLs, a seeded sample; null: check every URL")


class HostLimits(Section):
    """Limits for one photo host."""

    concurrency: int = Field(4, ge=1, le=1000, description="concurrent requests to one host")
    requests_per_second: float | None = Field(10.0, gt=0, description="to one host; null: as fast as it answers")
    gigabytes_per_hour: float | None = Field(
        None, gt=0, description="GB from one host, on average; requests pause for it; null: no limit"
    )


class Export(Section):
    """How photos are fetched; `validate-urls` keeps the same limits."""

    concurrency: int = Field(64, ge=1, le=1000, description="concurrent downloads, all hosts together")
    each_host: HostLimits = HostLimits()
    hosts: dict[str, HostLimits] = Field(
        {},
        description="other limits for hosts that allow more, or less, by name, or name:port where the URL has a port",
    )
    contact: str | None = Field(None, description="URL or mail address in the User-Agent; some hosts require one")
    attempts: int = Field(4, ge=1, le=20, description="tries per URL in one run; only passing failures are tried again")
    backoff_seconds: float = Field(1.0, ge=0, description="pause after a first failure; then doubled, with jitter")
    max_wait_seconds: float = Field(600.0, ge=0, description="longest pause, and longest Retry-After that is kept")
    host_failures: int = Field(
        10, ge=1, description="failures in a row (no connection, 429, 503, 52x) before a host is given up"
    )
    connect_seconds: float = Field(10.0, gt=0, description="for DNS, connection and TLS")
    read_seconds: float = Field(30.0, gt=0, description="without data inside a response")
    total_seconds: float = Field(120.0, gt=0, description="for one whole download")
    max_megabytes: float = Field(50.0, gt=0, description="MB; larger bodies are refused")
    max_redirects: int = Field(5, ge=0, le=20, description="each one's address is checked like the first")
    allow_networks: list[str] = Field(
        [], description="private networks (10.1.0.0/16) that photos may come from; others are refused"
    )

    @model_validator(mode="after")
    def _hosts(self) -> Export:
        for host in self.hosts:
            if not re.fullmatch(r"[^\s/:@]+(:\d+)?", host):
                raise ValueError(
                    f"hosts: received {host!r}, expected a name (or name:port) such as photos.example.org; correct it"
                )
        if self.contact is not None and not self.contact.isprintable():
            raise ValueError(f"contact: received {self.contact!r}, expected one line of text; remove the line break")
        return self

    @model_validator(mode="after")
    def _networks(self) -> Export:
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(
                    f"allow_networks: received {network!r}, expected networks such as 10.1.0.0/16 or ::1/128; "
                    f"correct it ({error})"
                ) from None
        return self


SameGroup = Literal["observation", "session", "sha256", "near-duplicate", "author"]


class Split(Section):
    """Shares of the splits, and the photos that stay together."""

    train: float = Field(0.80, gt=0, lt=1, description="share of the groups")
    val: float = Field(0.05, gt=0, lt=1, description="share of the groups; early stopping")
    calibration: float = Field(0.05, gt=0, lt=1, description="share of the groups; temperature and threshold")
    test: float = Field(0.10, gt=0, lt=1, description="share of the groups; all reported metrics")
    keep_raw: bool = Field(False, description="keep raw shards after the split (doubles the disk space)")
    group_by: list[SameGroup] = Field(
        ["observation", "session", "sha256", "near-duplicate"],
        description="what keeps photos together; session: same user, day and place; author: same species "
        "and same user or attribution",
    )
    # docs/near-duplicates.md has the measured distances. Those of a phash are even, so 3 would mean 2.
    near_duplicate_bits: int = Field(
        6, ge=0, le=8, description="of 64 phash bits, at most: candidates of two species, or of a very large one"
    )
    confirm_bits: int = Field(72, ge=0, le=128, description="of 256 phash bits, at most (low frequencies)")
    difference_bits: int = Field(84, ge=0, le=128, description="of 256 dhash bits, at most (neighbouring pixels)")
    same_photo: Annotated[str | None, FILE] = Field(
        None, description="CSV of pairs that stay together (sample_id_1, sample_id_2): phase0/tables/look_alikes.csv"
    )

    @model_validator(mode="after")
    def _sum(self) -> Split:
        shares = (self.train, self.val, self.calibration, self.test)
        if abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"train + val + calibration + test: received {' + '.join(f'{share:g}' for share in shares)} = "
                f"{sum(shares):g}, expected 1; change the others too"
            )
        return self


class Baseline(Section):
    """Frozen features and the linear probe on them."""

    features: Literal["imagenet", "file", "colour-histogram"] = Field(
        "imagenet", description="frozen features for class means and a linear probe; imagenet: download"
    )
    weights: Annotated[str | None, FILE] = Field(
        None, description="MobileNetV2 1.0 .weights.h5 file, for features: file"
    )
    image_size: int = Field(224, ge=32, le=512, description="pixels; MobileNetV2's own size")
    probe_epochs: int = Field(10, ge=1, le=1000, description="passes of the linear probe over the train split")

    @model_validator(mode="after")
    def _file(self) -> Baseline:
        if (self.features == "file") != (self.weights is not None):
            raise ValueError(
                f"features: received {self.features} with weights: {'null' if self.weights is None else self.weights}, "
                "expected `features: file` and a path as weights together; give both or neither"
            )
        return self

    @property
    def model(self) -> Model:
        """The network that computes the features, unless they are histograms."""
        return Model(name="mobilenetv2", pretrained=self.weights or True)


class Phase0(Section):
    """From the collection to TFRecords."""

    audit: Audit = Audit()
    validate_urls: ValidateUrls = ValidateUrls()
    export: Export = Export()
    split: Split = Split()
    baseline: Baseline = Baseline()
