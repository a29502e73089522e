"""A book of one page, one notebook, one figure and their index, and a run that fits it; no model, no kernel."""

import json
import shutil
from pathlib import Path

import pandas as pd

from prunelib import paths
from prunelib.files import sha256, write_json
from prunelib.report import figures, style
from prunelib.runs import environment
from prunelib.runs.sources import source_sha256
from prunelib.runs.tables import write_table

TOC = """\
format: jb-book
root: book/index
parts:
  - caption: The theorems
    numbered: 1
    chapters:
      - file: notebooks/01-demo
  - caption: Reference
    chapters:
      - file: book/figures
      - file: book/notation
"""
PAGE = """\
# A small book

The model is {val}`model.name`. The ratio is {val}`demo.ratio`; alone it is {val}`demo.ratio:plain`,
its interval {val}`demo.ratio:interval`. See {numref}`fig-demo` and [the chapter](../notebooks/01-demo.ipynb).
One of the points lies at 3 nats, the other points (of $h$) do not. Inline math $1-\\cos p$ and a display:

A formula in a line, $\\cos(p,q) \\ge 2\\sqrt{ul}/(l+u) = 2/(\\sqrt{u/l} + \\sqrt{l/u}) = 1/\\cosh(R/2)$, too wide
for a phone.

$$ \\mathrm{KL}(p\\,\\|\\,q) = \\log \\mathbb{E}_p[w] - \\boldsymbol{\\mu} $$

$$
\\underbrace{a + b + c + d + e + f + g + h}_{\\text{a formula that is wider than any telephone}}
= \\int_0^1 f(x)\\,dx
$$

| a | wide | table | of | many | columns | each | with | an_unbreakable_and_rather_long_word |
|---|---|---|---|---|---|---|---|---|
| {val}`demo.ratio` | {val}`demo.ratio` | 3 | 4 | 5 | 6 | 7 | 8 | another_unbreakable_and_rather_long_word |

```{claims-table}
```

```{claims-table}
:brief:
```
"""


STICKING_OUT = """() => {
  const article = document.querySelector("article") ?? document.querySelector("main");
  const scrolls = e => e !== article && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
  const sticksOut = e => e.getBoundingClientRect().right > innerWidth && !scrolls(e.parentElement);
  return [...article.querySelectorAll("*")].filter(sticksOut).map(e => e.outerHTML.slice(0, 200));
}"""
"""Script: what in the article stands out of the window and in no box that scrolls."""


NOTATION = """\
# Notation

## Words

Points
: single measurements, one a prompt.

nats
: the unit of *logits*; one nat is `1.44` bits.

## Symbols

None.
"""


@figures.figure("fig-demo", "A demo figure", chapter="demo")
def demo(data: pd.DataFrame, style: style.Style) -> figures.Drawn:
    """One curve for each series."""
    fig, axes = style.subplots(height=2.4)
    for i, (name, rows) in enumerate(data.groupby("series")):
        look = {"color": style.colours[i], "ls": style.linestyles[i], "marker": style.markers[i]}
        axes.plot(rows["x"], rows["y"], label=name, **look)
    axes.legend()
    top = data["y"].max()
    return figures.Drawn(fig, f"**The top is {top:g}.** Curves of $\\cos p$.", f"Two curves up to {top:g}.")


DATA = pd.DataFrame({"series": ["a"] * 4 + ["b"] * 4, "x": [0, 1, 2, 3] * 2, "y": [0, 1, 2, 3, 0.1, 1 / 3, 2, 7]})


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "id": f"m{len(text)}", "metadata": {}, "source": text}


def code(source: str, *tags: str, outputs=(), count: int | None = 1) -> dict:
    return {
        "cell_type": "code",
        "id": f"c{len(source)}",
        "metadata": {"tags": list(tags)},
        "execution_count": count,
        "source": source,
        "outputs": list(outputs),
    }


def notebook(*cells: dict) -> str:
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def executed_cells() -> list[dict]:
    text = {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}, "execution_count": 3}
    return [
        markdown("# A chapter\n\nOf {val}`demo.count` points; $x^2$."),
        code('model = "default"  # any model\nseed = 0', "parameters"),
        code('# Parameters\nmodel = "other"\n', "injected-parameters", count=2),
        code("6 * 7", outputs=[text], count=3),
        markdown("```{figcard} fig-demo\n```"),
    ]


def make(folder: Path) -> tuple[Path, Path]:
    """Write the project and the run below ``folder``; returns both folders."""
    root, run = folder / "project", folder / "runs" / "tiny" / "smoke"
    for name in ("book/_ext", "book/_static"):
        shutil.copytree(paths.project_root() / name, root / name)
    shutil.copy(paths.project_root() / "_config.yml", root)
    shutil.copy(paths.project_root() / "book" / "figures.md", root / "book")
    (root / "_toc.yml").write_text(TOC)
    (root / "book" / "index.md").write_text(PAGE)
    (root / "book" / "notation.md").write_text(NOTATION)
    (root / "book" / "references.bib").write_text("@misc{demo, title={Demo}, author={A, B}, year={2020}}\n")
    cells = executed_cells()
    source = [c | {"outputs": [], "execution_count": None} if c["cell_type"] == "code" else c for c in cells]
    (root / "notebooks").mkdir()
    (root / "notebooks" / "01-demo.ipynb").write_text(notebook(*(source[:2] + source[3:])))
    write_run(root, run, cells)
    return root, run


def pages_of(site: Path) -> list[Path]:
    """All pages of a site but the first, which only leads on."""
    found = [file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts]
    return [file for file in found if file != site / "index.html"]


def write_run(root: Path, run: Path, cells: list[dict]) -> None:
    """The run folder of ``root``'s only notebook, executed to ``cells``."""
    executed = run / "notebooks" / "01-demo.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    executed.write_text(notebook(*cells))
    about = {"model": {"name": "tiny/model"}, "notebook": "01-demo", "profile": "smoke", "seed": 0}
    figures.draw("fig-demo", DATA, run / "figures", about)
    files = {f.name: sha256(f) for f in sorted((run / "figures").glob("fig-demo.*"))}
    write_table(run / "tables" / "demo.parquet", DATA, {"k": 1})
    code_version = {"commit": None, "dirty": None, "digest": environment.code_digest()}
    value = {"exact": False, "fmt": ".3g", "notebook": "01-demo"}
    manifest = {
        "schema": 1,
        "model": {"name": "tiny/model", "slug": "tiny", "n_layers": 2},
        "profile": "smoke",
        "seed": 0,
        "code": code_version,
        "created": "2026-01-01T00:00:00+00:00",
        "notebooks": {
            "01-demo": {
                "sha256": sha256(executed),
                "source_sha256": source_sha256(root / "notebooks" / "01-demo.ipynb"),
                "code": code_version,
            }
        },
        "tables": {"demo": {"sha256": sha256(run / "tables" / "demo.parquet"), "rows": 8}},
        "figures": {"fig-demo": {"files": files, "notebook": "01-demo"}},
        "values": {
            "demo.ratio": value | {"value": 2.314, "lo": 2.1, "hi": 2.52},
            "demo.count": value | {"value": 1200, "lo": None, "hi": None, "exact": True, "fmt": ",d"},
        },
        "claims": {
            "C1": {"value": 0.98, "lo": 0.97, "hi": 0.99, "exact": False, "notebook": "01-demo"},
            "C8": {
                "parts": {
                    "choice kept": {"value": 0.71, "lo": 0.62, "hi": 0.83, "exact": False},
                    "generation kept": {"value": None, "lo": None, "hi": None, "exact": False},
                },
                "notebook": "01-demo",
            },
        },
    }
    write_json(run / "manifest.json", manifest)
