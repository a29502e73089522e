"""What one notebook records in a run folder: its tables, and its part of the manifest.

A table is computed again only when its key changed or its file is not the one that was recorded.
"""

import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from prunelib.files import is_sealed, key_hash, seal, sha256, short_name, write_json, writing
from prunelib.runs import folders
from prunelib.runs.progress import report_progress
from prunelib.runs.tables import read_table, write_table


def peak_memory() -> float:
    """GiB of main memory that this process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


class Record:
    """One run folder and what one notebook records in it.

    ``folder`` is ``runs/<model>/<profile>``; ``notebook`` names the part this
    object writes; ``common`` goes into the part as it is (model, parameters…).

    Files of finished notebooks are never touched: what would take their place
    waits in ``unfinished/<notebook>/`` until this notebook is finished too
    (:func:`prunelib.runs.folders.finish`).
    """

    def __init__(self, folder: Path, notebook: str, common: dict):
        self.folder = Path(folder)
        self.notebook = notebook
        self.units_computed = self.units_reused = 0
        own = ((self.folder, part) for part in folders.parts(self.folder))
        every = [*folders.shards(self.folder), *own, *folders.unfinished(self.folder)]
        finished = [part for home, part in every if home == self.folder and "executed" in part]
        self._standing = {name for part in finished for name in folders.described(part)}
        self._standing |= {f"parts/{part['notebook']}.json" for part in finished}
        self._recorded = [
            (name, entry, home)
            for home, part in every
            for name, entry in (part.get("earlier", {}) | part["tables"]).items()
        ]
        # An interrupted run of this notebook had tables too: their hashes stay known until this one is finished.
        mine = (self._home(f"parts/{notebook}.json"), notebook)
        before = next((part for home, part in every if (home, part["notebook"]) == mine), {})
        earlier = before.get("earlier", {}) | before.get("tables", {})
        self._spent = {} if "executed" in before else folders.cost_of(before)
        self.part = common | {
            "notebook": notebook,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "earlier": earlier,
            **{field: {} for field in ("tables", "figures", "values", "claims")},
        }
        self._started = time.time()
        self._noted = False
        self.save()

    def place(self, name: str) -> Path:
        """Where to write the file ``name`` (``figures/fig-x.csv``): its place, or apart if a finished one is there."""
        return self._home(name) / name

    def _home(self, name: str) -> Path:
        return self.folder / folders.UNFINISHED / self.notebook if name in self._standing else self.folder

    def tables(
        self,
        names: Sequence[str],
        key: dict,
        items: Sequence,
        compute: Callable[[object], dict[str, pd.DataFrame]],
    ) -> dict[str, pd.DataFrame]:
        """Compute a group of tables piece by piece, or read them back.

        ``compute(item)`` returns one frame for each of ``names``; the frames of
        all ``items`` are concatenated in order. A finished item is saved at
        once and not computed again after an interruption, as long as ``key``
        (everything the numbers depend on) is the same, and its files are the
        ones that were written.
        """
        files = {name: self._recorded_file(short_name(name), key) for name in names}
        found = {name: read_table(file, key) for name, file in files.items() if file}
        if len(found) == len(names) and all(frame is not None for frame in found.values()):
            self.units_reused += len(items)
            for name, file in files.items():
                self._record(short_name(name), file, len(found[name]), key)
            self.save()
            return found
        return self._compute(names, key, items, compute)

    def table(self, name: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """One table computed in one piece, or read back when its key is the same."""
        return self.tables([name], key, [None], lambda _: {name: compute()})[name]

    def _compute(self, names, key, items, compute) -> dict[str, pd.DataFrame]:
        units = self.folder / "units" / f"{short_name(names[0])}-{key_hash(key)[:16]}"
        pieces: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
        for number, item in enumerate(items):
            files = {name: units / f"{number:04d}.{short_name(name)}.parquet" for name in names}
            frames = {name: read_table(file, key) if is_sealed(file) else None for name, file in files.items()}
            if any(frame is None for frame in frames.values()):
                frames = compute(item)
                for name, file in files.items():
                    write_table(file, frames[name], key)
                    seal(file)
                self.units_computed += 1
            else:
                self.units_reused += 1
            for name in names:
                pieces[name].append(frames[name])
            report_progress(names[0], number + 1, len(items))
        found = {}
        for name in names:
            file = self.place(folders.table_file(short_name(name)))
            write_table(file, pd.concat(pieces[name], ignore_index=True), key)
            # Read back, so that a first run and a resumed one hand on the very same frames.
            found[name] = read_table(file, key)
            self._record(short_name(name), file, len(found[name]), key)
        # Only a table whose hash is on record can do without its units.
        self.save()
        shutil.rmtree(units, ignore_errors=True)
        return found

    def _recorded_file(self, name: str, key: dict) -> Path | None:
        """The table ``name`` of this key that some notebook recorded, if its file is still what it was."""
        wanted = key_hash(key)
        for other, entry, home in reversed(self._recorded):
            if other == name and entry.get("key") == wanted:
                for folder in dict.fromkeys((home, self.folder)):
                    file = folder / folders.table_file(name)
                    if file.is_file() and sha256(file) == entry.get("sha256"):
                        return file
        return None

    def _record(self, name: str, file: Path, rows: int, key: dict) -> None:
        """Name a table in this part; one that waits for another notebook's end is copied to where it belongs."""
        target = self.place(folders.table_file(name))
        if file not in (target, self.folder / folders.table_file(name)):
            with writing(target) as temporary:
                shutil.copyfile(file, temporary)
            file = target
        entry = {"sha256": sha256(file), "rows": rows, "key": key_hash(key)}
        self.part["tables"][name] = entry
        home = self.folder if file == self.folder / folders.table_file(name) else self._home(folders.table_file(name))
        self._recorded.append((name, entry, home))

    def note(self, field: str, key: str, entry: dict) -> None:
        """Record one of the ``values``, ``claims`` or ``figures``; written with the next table, figure or cell."""
        self.part[field][key] = entry
        self._noted = True

    def save_if_noted(self) -> None:
        """:meth:`save`, if anything was noted since the last time."""
        if self._noted:
            self.save()

    def save(self) -> None:
        """Write this notebook's part and merge all parts into ``manifest.json``."""
        self._noted = False
        self.part["units"] = {"computed": self.units_computed, "reused": self.units_reused}
        own = {"seconds": time.time() - self._started, "memory_gib": peak_memory(), "computed": self.units_computed}
        self.part["cost"] = folders.added(self._spent, own)
        write_json(self.place(f"parts/{self.notebook}.json"), self.part)
        folders.merge(self.folder)
