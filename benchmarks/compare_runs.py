"""Are the tables of two runs equal? For changes that must not change a number.

  prunelib run --profile smoke --out before      on the old commit
  prunelib run --profile smoke --out after       on the new one
  python benchmarks/compare_runs.py before after

Every table of the first run must be in the second, with equal entries to the bit; rows may come in another order.
So must every value and claim of its manifest.
``--rename old=new`` says under which name a column or a table stands now; ``--more-rows`` allows rows that only the
second run has, as after a new method. Tables and columns that only the second has are listed. Exit code 1 where
anything differs.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from prunelib.files import read_json
from prunelib.runs.tables import read_table


def compare(before: Path, after: Path, renamed: dict[str, str], more_rows: bool) -> tuple[list[str], list[str]]:
    """(what differs, what only one run has), a line each."""
    folders = [folder / "tables" for folder in (before, after)]
    old, new = ({file.stem: file for file in sorted(folder.glob("*.parquet"))} for folder in folders)
    found, others = [], []
    for name, file in old.items():
        twin = new.pop(renamed.get(name, name), None)
        if twin is None:
            found.append(f"{name}: only in {before}")
            continue
        one, two = read_table(file).rename(columns=renamed), read_table(twin)
        if gone := [column for column in one if column not in two]:
            found.append(f"{name}: no column {', '.join(gone)}")
            continue
        if more := [column for column in two if column not in one]:
            others.append(f"{name}: new columns {', '.join(more)}")
        one, two = in_order(one), in_order(two[list(one)])
        if more_rows and len(two) > len(one):
            keys = set(one.itertuples(index=False, name=None))
            others.append(f"{name}: {len(two) - len(one)} new rows")
            two = two[[row in keys for row in two.itertuples(index=False, name=None)]].reset_index(drop=True)
        if not one.equals(two):
            found.append(f"{name}: entries differ ({len(one)} and {len(two)} rows)")
    return found, others + [f"{name}: only in {after}" for name in new]


def recorded(before: Path, after: Path) -> list[str]:
    """Values and claims of the manifests that differ, in what they say or how they are written."""
    old, new = (read_json(folder / "manifest.json") for folder in (before, after))
    return [
        f"{kind[:-1]} {name}: {entry} and {new[kind].get(name)}"
        for kind in ("values", "claims")
        for name, entry in old[kind].items()
        if new[kind].get(name) != entry
    ]


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by all columns that can be sorted; lists become text."""

    def comparable(value):
        return repr(list(value)) if hasattr(value, "__len__") and not isinstance(value, str) else value

    plain = table.map(comparable)
    return plain.sort_values(list(plain.columns), ignore_index=True, kind="stable")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="a table or a column")
    parser.add_argument("--more-rows", action="store_true", help="rows that only AFTER has are no difference")
    options = parser.parse_args()
    renamed = dict(pair.split("=", 1) for pair in options.rename)
    found, others = compare(options.before, options.after, renamed, options.more_rows)
    for line in others:
        print(line)
    for line in found:
        print(f"DIFFERS  {line}")
    said = recorded(options.before, options.after)
    for line in said:
        print(f"DIFFERS  {line}")
    count = len(list((options.before / "tables").glob("*.parquet")))
    entries = [len(read_json(options.before / "manifest.json")[kind]) for kind in ("values", "claims")]
    print(
        f"{count - len(found)} of {count} tables equal, {sum(entries) - len(said)} of {sum(entries)} values and claims"
    )
    return bool(found or said)


if __name__ == "__main__":
    sys.exit(main())
