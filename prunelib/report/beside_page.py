"""Where a comparison of runs goes: a folder with a page, figures and tables, a table on the terminal, or JSON."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.files import new_folder, write_json, writing
from prunelib.report import beside_figures, figures, side_by_side
from prunelib.report.side_by_side import Shown
from prunelib.runs import beside, environment, marks

_SUFFIXES = (".light.svg", ".pdf", ".csv")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs side by side</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ border-bottom: 1px solid #d0d7de; padding: 0.3rem 0.6rem; text-align: left; vertical-align: top; }}
div {{ overflow-x: auto; }}
img {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>Runs side by side</h1>
<p>Verdicts are those of today's rules on the numbers that each run recorded, with 95 % intervals. A claim of
two parts is supported if both are. Made by <code>prunelib compare</code>; the same as
<a href="claims.csv">claims.csv</a> and <a href="comparison.json">comparison.json</a>.</p>
<div>{table}</div>
{figures}
</body>
</html>
"""


def drawn(runs: Sequence[Shown], folder: Path) -> list[figures.Card]:
    """Draw both figures of these runs into ``folder``; what is drawn there from the same data and code stays."""
    about = {
        "notebook": beside_figures.NOTEBOOK,
        "model": {"name": "; ".join(dict.fromkeys(run.model for run in runs))},
        "code": environment.code_version(),
    }
    data = {
        beside_figures.LAYERS: side_by_side.layer_curves(runs),
        beside_figures.DROPPED: side_by_side.drop_curves(runs),
    }
    return [_card(name, rows, folder, about) for name, rows in data.items()]


def _card(name: str, rows: pd.DataFrame, folder: Path, about: dict) -> figures.Card:
    csv = folder / f"{name}.csv"
    if csv.is_file() and csv.read_text() == rows.to_csv(index=False, lineterminator="\n"):
        known = figures.load_card(folder, name)
        code = known.provenance.get("code", {}).get("digest")
        whole = all(known.file(suffix).is_file() for suffix in figures.SUFFIXES)
        if whole and code == about["code"]["digest"]:
            return known
    return figures.draw(name, rows, folder, about)


def write(runs: Sequence[Shown], target: Path) -> Path:
    """A folder with ``index.html``, both figures (SVG, PDF, CSV), ``claims.csv`` and ``comparison.json``.

    Returns the page. Raises PrunelibError for a folder that holds something else, or cannot be written.
    """
    target = Path(target).expanduser()
    if not (marks.is_empty(target) or marks.is_marked(target, "comparison")):
        raise PrunelibError(f"{target} is not empty and no comparison of prunelib; name another folder with --out")
    rows = side_by_side.by_claim(runs)
    try:
        with new_folder(target) as fresh:
            marks.mark(fresh, "comparison")
            cards = drawn(runs, fresh)
            for card in cards:
                for suffix in set(figures.SUFFIXES) - set(_SUFFIXES):
                    card.file(suffix).unlink()
            rows.to_csv(fresh / "claims.csv", index=False, lineterminator="\n")
            write_json(fresh / "comparison.json", record(runs))
            with writing(fresh / "index.html") as temporary:
                temporary.write_text(page(rows, cards), encoding="utf-8")
    except OSError as error:
        raise PrunelibError(f"cannot write {target}: {error.strerror or error}") from error
    return target / "index.html"


PAGE = "book/beside.md"
"""The page of a book that shows the runs beside its own."""


def staged(run: Path, manifest: dict, work: Path) -> dict[str, bytes]:
    """What :data:`PAGE` needs, by the names of files in a site: ``comparison.json`` and the figures' files.

    Figures are kept in ``work`` and drawn again where their data changed. ``comparison.json`` also has ``figures``
    (ids) and ``gone``, how many runs were named when this one was made and are not there any more.
    """
    folders, gone = others(manifest)
    runs = side_by_side.read([run, *folders])
    cards = drawn(runs, work)
    about = record(runs) | {"figures": [card.id for card in cards], "gone": gone}
    files = {"comparison.json": (json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()}
    for card in cards:
        for suffix in figures.SUFFIXES:
            files[f"figures/{card.file(suffix).name}"] = card.file(suffix).read_bytes()
    return files


def others(manifest: dict) -> tuple[list[Path], int]:
    """Folders of the runs beside a run, as it was asked for (``--beside``), and how many of those are gone."""
    named = [str(given["beside"]) for given in manifest.get("parameters", {}).values() if given.get("beside")]
    if named:
        folders = [Path(one.strip()).expanduser() for one in named[0].split(",") if one.strip()]
        found = [folder for folder in folders if (folder / "manifest.json").is_file()]
        return found, len(folders) - len(found)
    about = manifest["model"].get("slug", ""), manifest["profile"]
    return [one.folder for one in beside.runs_beside("", *about)], 0


def page(rows: pd.DataFrame, cards: Sequence[figures.Card]) -> str:
    """The page's HTML; whatever comes from a run is text in it."""
    wide = side_by_side.wide(rows)
    statements = dict(zip(rows["claim"], rows["statement"], strict=True))
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in ("claim", *list(wide)[2:]))
    body = []
    for row in wide.itertuples(index=False):
        claim, part, *cells = row
        said = f"{claim}: {part}" if part else f"<strong>{claim}</strong> {html.escape(statements[claim])}"
        body.append(f"<tr><td>{said}</td>" + "".join(f"<td>{html.escape(str(one))}</td>" for one in cells) + "</tr>")
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>"
    shown = []
    for card in cards:
        caption = html.escape(card.caption.replace("*", "").replace("$", ""))
        links = " ".join(f'<a href="{card.id}{end}">{end.rpartition(".")[2].upper()}</a>' for end in _SUFFIXES)
        image = f'<img src="{card.id}.light.svg" alt="{html.escape(card.alt)}">'
        shown.append(f"<h2>{html.escape(card.title)}</h2>\n{image}\n<p>{caption}</p>\n<p>{links}</p>")
    return _PAGE.format(table=table, figures="\n".join(shown))


def record(runs: Sequence[Shown]) -> dict:
    """The comparison for programs: ``runs``, ``claims`` (rows of :func:`side_by_side.by_claim`) and both curves."""
    about = [
        {"run": run.name, "model": run.model, "profile": run.manifest["profile"], "layers": run.layers} for run in runs
    ]
    tables = {
        "claims": side_by_side.by_claim(runs),
        "layers": side_by_side.layer_curves(runs),
        "dropped": side_by_side.drop_curves(runs),
    }
    return {"schema": 1, "runs": about} | {name: _records(table) for name, table in tables.items()}


def _records(table: pd.DataFrame) -> list[dict]:
    rows = table.to_dict("records")
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in rows
    ]


def text(runs: Sequence[Shown]) -> str:
    """The claims as a table for a terminal, one row a claim and part."""
    wide = side_by_side.wide(side_by_side.by_claim(runs))
    first = [f"  {row.part}" if row.part else row.claim for row in wide.itertuples()]
    table = pd.concat([pd.Series(first, name="claim"), wide.drop(columns=["claim", "part"])], axis=1)
    widths = [max(len(str(name)), *(len(str(cell)) for cell in table[name])) for name in table]
    lines = [list(table), *table.itertuples(index=False, name=None)]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_json(runs: Sequence[Shown]) -> str:
    return json.dumps(record(runs), indent=1, ensure_ascii=False, allow_nan=False)
