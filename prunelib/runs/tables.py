"""Tables with the key that they were computed under, and files of named arrays.

Parquet by pyarrow; its metadata carries the hash of the key, so that a file says by itself what it holds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prunelib.files import key_hash, writing


def write_table(path: Path, frame: pd.DataFrame, key: dict) -> None:
    """Write a tidy table with the key it was computed under in its metadata."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    extra = {b"prunelib_key": key_hash(key).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, key: dict | None = None) -> pd.DataFrame | None:
    """The table at ``path``, or None if it is missing, damaged or of another key."""
    try:
        file = pq.ParquetFile(path)
        stored = (file.schema_arrow.metadata or {}).get(b"prunelib_key", b"").decode()
        if key is not None and stored != key_hash(key):
            return None
        return file.read().to_pandas()
    except (OSError, pa.ArrowException):
        return None


def has_key(path: Path) -> bool:
    """Whether the file is a table or an :class:`ArrayFile` of ours."""
    try:
        return b"prunelib_key" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_csv(path: Path) -> pd.DataFrame:
    """A figure's data exactly as it was drawn: every float as written, an empty field is NaN."""
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])


class ArrayFile:
    """Many named arrays in one compressed file, written one after another and read by name.

    ``add`` takes raw bytes with the shape and type to make them an array again.
    Used as a context: the file appears only when the last array is in it.
    """

    _SCHEMA = pa.schema(
        [("name", pa.string()), ("shape", pa.list_(pa.int64())), ("dtype", pa.string()), ("data", pa.large_binary())]
    )

    def __init__(self, path: Path, key: dict):
        self._writing = writing(path)
        self._schema = self._SCHEMA.with_metadata({b"prunelib_key": key_hash(key).encode()})

    def __enter__(self) -> "ArrayFile":
        target = self._writing.__enter__()
        # No dictionary and no largest value of the data: each would be another copy of an array in memory.
        options = {"use_dictionary": False, "write_statistics": False, "compression": "zstd", "compression_level": 1}
        self._writer = pq.ParquetWriter(target, self._schema, **options)
        return self

    def add(self, name: str, shape: Sequence[int], dtype: str, data) -> None:
        row = {"name": [name], "shape": [list(shape)], "dtype": [dtype], "data": [data]}
        self._writer.write_table(pa.table(row, schema=self._schema))

    def __exit__(self, *error) -> bool | None:
        self._writer.close()
        return self._writing.__exit__(*error)


def read_arrays(path: Path, key: dict) -> Iterator[tuple[str, list[int], str, pa.Buffer]] | None:
    """``(name, shape, dtype, data)`` of an :class:`ArrayFile`, or None if missing, damaged or of another key.

    One array is read at a time.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException):
        return None
    if (file.schema_arrow.metadata or {}).get(b"prunelib_key", b"").decode() != key_hash(key):
        return None

    def row(i: int) -> tuple:
        name, shape, dtype, data = (column[0] for column in file.read_row_group(i))
        return name.as_py(), shape.as_py(), dtype.as_py(), data.as_buffer()

    return (row(i) for i in range(file.num_row_groups))
