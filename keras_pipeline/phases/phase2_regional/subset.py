"""`phase2 subset`: index the region's train photos."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.progress import progress
from keras_pipeline.core.region_names import names_of, title_of
from keras_pipeline.data import records


def run(run: Run) -> None:
    """Index the region's train photos and count them by species; training reads them where they are."""
    region = run.config.regional.region
    info = records.load_info(run.path("dataset"))
    tables = [
        records.index_shard(shard, lambda photo: {"latin_name": photo.latin_name, "region": photo.region})
        for shard in progress(info.shards("train"), description="subset", unit="shards")
    ]
    index = pd.concat([table[table.region.isin(names_of(region))] for table in tables], ignore_index=True)
    index["file"] = index["file"].map(lambda file: Path(file).name)
    with aside(run.path("regional_index")) as temporary:
        index.drop(columns="region").to_parquet(temporary, index=False)
    commonest = sorted(index["latin_name"].value_counts().items(), key=lambda item: (-item[1], item[0]))
    per_class = {name: int(n) for name, n in commonest}
    write_json(
        run.path("regional_subset"),
        {"region": region, "samples": len(index), "species": len(per_class), "per_class": per_class},
    )
    print(f"{title_of(region)}: {len(index)} train photos of {len(per_class)} species; the commonest:")
    print("\n".join(f"{n:>8}  {name}" for name, n in list(per_class.items())[:20]))
