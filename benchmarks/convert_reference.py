"""Bring the figures' data and tables of committed reference runs to today's columns; nothing is computed anew.

  python benchmarks/convert_reference.py data/reference/smollm2-135m-instruct

Figures of the methods chapter name method, kind and setting in columns since methods are registered; before, they were
read from labels. Tables of standard benchmarks name benchmark, specification and label; before, these were read from
file names. The layer curves have the numbers over all points of the middle layers. The manifest gets the new hash of
each file that changed.
"""

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prunelib.chapters.methods.measure import described
from prunelib.files import read_json, sha256, write_json, writing
from prunelib.methods import parse
from prunelib.runs.tables import read_csv

FIGURES = ("fig-methods-error", "fig-methods-stream", "fig-methods-seeds")


def figures(folder: Path, manifest: dict) -> None:
    for figure_id in FIGURES:
        file = folder / "figures" / f"{figure_id}.csv"
        table = read_csv(file)
        if "method" in table:
            continue
        with writing(file) as temporary:
            described(table).to_csv(temporary, index=False, lineterminator="\n")
        manifest["figures"][figure_id]["files"][file.name] = sha256(file)
        print(f"{file.name}: {len(table)} rows")


def layer_curves(folder: Path, manifest: dict) -> None:
    """Rows ``middle``: what the run recorded of all points of the middle half of the layers."""
    for sublayer in ("attn", "mlp"):
        file = folder / "figures" / f"fig-layerwise-{sublayer}.csv"
        table = read_csv(file)
        if "part" in table:
            continue
        rows = []
        for lens, space in (("raw", "h"), ("raw", "z"), ("raw", "p"), ("normed", "z"), ("normed", "p")):
            mean, low = (manifest["values"][f"layerwise.{sublayer}.{lens}.cos_{space}{end}"] for end in ("", "_q05"))
            inner = table[(table["lens"] == lens) & (table["space"] == space) & table["depth"].between(0.25, 0.75)]
            rows.append(
                {
                    "source": "this model",
                    "part": "middle",
                    "space": space,
                    "lens": lens,
                    "mean": mean["value"],
                    "mean_lo": mean["lo"],
                    "mean_hi": mean["hi"],
                    "q05": low["value"],
                    "min": inner["min"].min(),
                }
            )
        with writing(file) as temporary:
            whole = pd.concat([table.assign(part="layer"), pd.DataFrame(rows)], ignore_index=True)
            whole.to_csv(temporary, index=False, lineterminator="\n")
        manifest["figures"][f"fig-layerwise-{sublayer}"]["files"][file.name] = sha256(file)
        print(f"{file.name}: {len(whole)} rows")


def benchmarks(folder: Path, manifest: dict) -> None:
    for file in sorted((folder / "tables").glob("benchmark_*.parquet")):
        stored = pq.read_table(file)
        if "spec" in stored.column_names:
            continue
        name, _, slug = file.stem.removeprefix("benchmark_").rpartition("_")
        spec = slug.replace("-", ":")
        table = stored.to_pandas().assign(benchmark=name, spec=spec, label=parse(spec).label)
        whole = pa.Table.from_pandas(table, preserve_index=False)
        key = {b"prunelib_key": stored.schema.metadata[b"prunelib_key"]}
        with writing(file) as temporary:
            pq.write_table(whole.replace_schema_metadata(whole.schema.metadata | key), temporary, compression="zstd")
        manifest["tables"][file.stem]["sha256"] = sha256(file)
        print(f"{file.name}: {len(table)} rows")


def main(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    figures(folder, manifest)
    benchmarks(folder, manifest)
    layer_curves(folder, manifest)
    write_json(folder / "manifest.json", manifest)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
