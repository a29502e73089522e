"""Are the tables of two runs equal? For changes that must not change a number.

  prunelib run --profile smoke --out before      on the old commit
  prunelib run --profile smoke --out after       on the new one
  python benchmarks/compare_runs.py before after

Every table of the first run must be in the second, with equal entries to the bit; rows may come in another order.
``--rename old=new`` says under which name a column or a table stands now. Tables that only one run has, and columns
that only the second has, are listed. Exit code 1 where anything differs.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from prunelib import store


def compare(before: Path, after: Path, renamed: dict[str, str]) -> tuple[list[str], list[str]]:
    """(what differs, what only one run has), a line each."""
    folders = [folder / "tables" for folder in (before, after)]
    old, new = ({file.stem: file for file in sorted(folder.glob("*.parquet"))} for folder in folders)
    found, others = [], []
    for name, file in old.items():
        twin = new.pop(renamed.get(name, name), None)
        if twin is None:
            found.append(f"{name}: only in {before}")
            continue
        one, two = store.read_table(file).rename(columns=renamed), store.read_table(twin)
        if gone := [column for column in one if column not in two]:
            found.append(f"{name}: no column {', '.join(gone)}")
            continue
        if more := [column for column in two if column not in one]:
            others.append(f"{name}: new columns {', '.join(more)}")
        if not in_order(one).equals(in_order(two[list(one)])):
            found.append(f"{name}: entries differ ({len(one)} and {len(two)} rows)")
    return found, others + [f"{name}: only in {after}" for name in new]


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
    options = parser.parse_args()
    found, others = compare(options.before, options.after, dict(pair.split("=", 1) for pair in options.rename))
    for line in others:
        print(line)
    for line in found:
        print(f"DIFFERS  {line}")
    count = len(list((options.before / "tables").glob("*.parquet")))
    print(f"{count - len(found)} of {count} tables equal")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
