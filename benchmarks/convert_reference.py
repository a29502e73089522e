"""Bring the figures' data of committed reference runs to today's columns; nothing is computed anew.

  python benchmarks/convert_reference.py data/reference/smollm2-135m-instruct

Figures of the methods chapter name method, kind and setting in columns since methods are registered; before, they were
read from labels. The columns follow from ``spec``. The manifest gets the new hash of each file that changed.
"""

import sys
from pathlib import Path

from prunelib import store
from prunelib.experiments.methods import described

FIGURES = ("fig-methods-error", "fig-methods-stream", "fig-methods-seeds")


def main(folder: Path) -> None:
    manifest = store.read_json(folder / "manifest.json")
    for figure_id in FIGURES:
        file = folder / "figures" / f"{figure_id}.csv"
        table = store.read_csv(file)
        if "method" in table:
            continue
        with store.writing(file) as temporary:
            described(table).to_csv(temporary, index=False, lineterminator="\n")
        manifest["figures"][figure_id]["files"][file.name] = store.sha256(file)
        print(f"{file.name}: {len(table)} rows")
    store.write_json(folder / "manifest.json", manifest)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
