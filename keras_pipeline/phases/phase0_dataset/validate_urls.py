"""`phase0 validate-urls`: request a sample of the URLs without storing anything."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.data import photo
from keras_pipeline.ingest import download, idle
from keras_pipeline.ingest.ledger import NOT_SAMPLED, Ledger
from keras_pipeline.phases.phase0_dataset.stored import open_source, plan, shared_redirects


def run(run: Run) -> None:
    settings, own = run.config.phase0, run.config.source.serves_photos
    with open_source(run) as (documents, base_url), Ledger(_url_database(run)) as ledger:
        plan(run, ledger, documents)
        for remark in idle.of_downloads(ledger, run.config.source, settings.export):
            print(remark)
        ledger.skip_repeated_urls()
        if settings.validate_urls.sample is not None:
            ledger.sample(settings.validate_urls.sample)
        check = photo.checker(run.config.dataset)
        replace = run.config.source.url_replace
        download.check_urls(ledger, settings.export, base_url=base_url, own=own, check=check, url_replace=replace)
        told = [*shared_redirects(run, ledger)]
        columns = ["host", "state", "reason"]
        rows = pd.DataFrame(ledger.tally(*columns), columns=[*columns, "urls"])
    if own:
        rows["host"] = "(embedded)"  # its port changes from run to run
    failed = rows[rows.state == "failed"]
    tables = run.path("url_check").parent / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    failed[["host", "reason", "urls"]].to_csv(tables / "url_failures.csv", index=False)
    result = _failure_rate(rows)
    write_json(run.path("url_check"), result)
    within = "" if result["complete"] else " (95 % interval {:.1%} to {:.1%})".format(*result["interval"])
    print(
        f"{result['failed']} of {result['checked']} URLs failed{within}: {result['by_reason'] or 'none'}",
        *told,
        sep="\n",
    )


def _failure_rate(rows: pd.DataFrame) -> dict:
    """Summarize a table of host, state, reason, urls for the gate and the report.

    The interval of a sample is Clopper and Pearson's (1934): exact, at worst too wide.
    """
    requested, failed = rows[rows.state.isin(("ok", "failed"))], rows[rows.state == "failed"]
    n, bad = int(requested.urls.sum()), int(failed.urls.sum())
    rate = bad / n if n else None
    complete = not (rows.reason == NOT_SAMPLED).any()
    interval = [rate, rate]
    if n and not complete:
        exact = binomtest(bad, n).proportion_ci(0.95, "exact")
        interval = [float(exact.low), float(exact.high)]
    hosts = requested.groupby("host").urls.sum().to_frame("checked")
    hosts["failed"] = failed.groupby("host").urls.sum()
    hosts = hosts.fillna(0).astype(int).sort_values(["failed", "checked"], ascending=False)
    return {
        "checked": n,
        "failed": bad,
        "failure_rate": rate,
        "complete": complete,  # every URL was requested
        "interval": interval,  # 95 %
        "by_reason": {reason: int(k) for reason, k in failed.groupby("reason").urls.sum().items()},
        "by_host": hosts.head(100).to_dict("index"),  # most failures first
    }


def _url_database(run: Run) -> Path:
    return run.path("url_check").with_name("urls.sqlite")
