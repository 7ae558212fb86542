"""Features as one Parquet file, one row per video, for tools such as pandas, Polars, DuckDB and Spark."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.atomic import write_atomically
from pipeline.features.recipe import FeatureRecipe, VideoFeatures
from pipeline.settings.config import ConfigError

_ROWS_AT_A_TIME = 64  # bounds the memory: long videos have megabytes of features


class Row(NamedTuple):
    """One video, its class and its features."""

    video_id: str
    label: str
    group: str
    features: VideoFeatures


def write_parquet(path: Path, recipe: FeatureRecipe, rows: Iterable[Row]) -> None:
    """Write ``video_id, label, group, frame_indices, features`` to a file, atomically.

    ``features`` is a list of frames, each a list of float32 numbers, because few tools read float16. The recipe is the
    file's metadata ``recipe``.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError: the file can't be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as missing:
        raise ConfigError(
            "--format parquet needs pyarrow, which is not installed: pip install -e '.[parquet]'"
        ) from missing

    schema = pyarrow.schema(
        [
            ("video_id", pyarrow.string()),
            ("label", pyarrow.string()),
            ("group", pyarrow.string()),
            ("frame_indices", pyarrow.list_(pyarrow.int32())),
            ("features", pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
        ],
        metadata={"recipe": recipe.to_json()},
    )

    def frames_of(video: VideoFeatures) -> "pyarrow.Array":
        num_frames, feature_dim = video.features.shape
        ends = np.arange(num_frames + 1, dtype=np.int32) * feature_dim
        return pyarrow.ListArray.from_arrays(ends, video.features.astype(np.float32).ravel())

    def batch_of(group: list[Row]) -> "pyarrow.RecordBatch":
        ends = np.cumsum([0] + [len(row.features.features) for row in group], dtype=np.int32)
        features = pyarrow.concat_arrays([frames_of(row.features) for row in group])
        columns = [
            [row.video_id for row in group],
            [row.label for row in group],
            [row.group for row in group],
            [row.features.frame_indices for row in group],
            pyarrow.ListArray.from_arrays(ends, features),
        ]
        return pyarrow.record_batch(columns, schema=schema)

    def write(temporary: Path) -> None:
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as file:
            group: list[Row] = []
            for row in rows:
                group.append(row)
                if len(group) == _ROWS_AT_A_TIME:
                    file.write_batch(batch_of(group))
                    group = []
            if group:
                file.write_batch(batch_of(group))

    write_atomically(path, write)
