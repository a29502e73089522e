"""From a run folder to a site: gate, staging folder, Sphinx, checks, swap.

Nothing is rendered unless :func:`gate` finds the run complete and unharmed, and
the old site stays in place until the new one has passed every check.
"""

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml

from prunelib import claims, committed, facts, figures, paths, sitecheck, store
from prunelib.errors import PrunelibError

_VAL = re.compile(r"\{val\}`([^`]+)`")
_FIGCARD = re.compile(r"^\s*(?:`{3,}|:{3,})\{figcard\}\s*(\S+)", re.MULTILINE)
_RENDERERS = ("sphinx", "jupyter-book", "sphinx-book-theme", "myst-nb", "sphinx-mathjax-offline")
_CONF = '''"""Written by `prunelib book`: Jupyter Book's settings, with _config.yml on top."""

from pathlib import Path

from jupyter_book.config import get_final_config

_here = Path(__file__).parent
_options = {"latex_individualpages": False}
globals().update(get_final_config(user_yaml=_here / "_config.yml", cli_config=_options)[0])
'''


class NotPublishable(PrunelibError):
    """A check of the run or of the rendered site failed; ``problems`` has one line each."""

    def __init__(self, what: str, problems: list[str]):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{what}: {problems[0]}{more}")
        self.problems = problems


# ---------------------------------------------------------------- gate


def chapters(root: Path | None = None) -> tuple[list[str], list[str]]:
    """Ids of the notebooks and paths of the pages (below the project) that ``_toc.yml`` lists."""
    root = root or paths.project_root()
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    listed = [toc["root"], *_files(toc)]
    notebooks = [Path(name).name for name in listed if name.startswith("notebooks/")]
    return notebooks, [f"{name}.md" for name in listed if not name.startswith("notebooks/")]


def _files(node) -> Iterator[str]:
    if isinstance(node, dict):
        if "file" in node:
            yield node["file"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _files(child)


def gate(run_dir: Path, root: Path | None = None, current: bool = True) -> list[str]:
    """Why this run must not be published, one line each; empty when it may be.

    ``current=False`` allows a run of older notebooks and code, as a committed reference is.

    Checked: every notebook of the book was executed to its last cell without an
    error, from today's notebook and today's code; every file is the one the
    manifest describes; every value and figure that a page names exists.
    """
    run_dir, root = Path(run_dir), root or paths.project_root()
    manifest = store.read_json(run_dir / "manifest.json")
    if not manifest:
        return [f"{run_dir} has no readable manifest.json: run `prunelib run` first"]
    notebooks, pages = chapters(root)
    found = []
    for name in notebooks:
        found += _notebook_problems(run_dir, root, name, manifest["notebooks"].get(name), current)
    found += _file_problems(run_dir, manifest)
    for page in pages:
        if (root / page).is_file():
            found += _reference_problems(page, (root / page).read_text(), manifest)
        else:
            found.append(f"{page} is in _toc.yml but does not exist")
    for name in notebooks:
        source = root / "notebooks" if current else run_dir / "notebooks"
        cells = store.read_json(source / f"{name}.ipynb").get("cells", [])
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        found += _reference_problems(name, "\n\n".join(texts), manifest)
    return found


def _notebook_problems(run_dir: Path, root: Path, name: str, entry: dict | None, current: bool) -> list[str]:
    source = root / "notebooks" / f"{name}.ipynb"
    executed = run_dir / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        return [f"{name} is in _toc.yml but there is no such notebook"]
    if entry is None or not executed.is_file():
        return [f"{name} was not run: `prunelib run {name[:2]}`"]
    again = f"run `prunelib run {name[:2]}` again"
    found = []
    if current and entry.get("source_sha256") != store.source_sha256(source):
        found.append(f"{name} changed since it was run: {again}")
    if current and entry.get("code", {}).get("digest") != store.code_digest():
        found.append(f"{name} was run with other code than today's: {again}")
    if entry.get("sha256") != store.sha256(executed):
        found.append(f"{executed.name} is not the file that the run wrote: {again}")
    for position, cell in enumerate(store.read_json(executed).get("cells", []), 1):
        if cell["cell_type"] != "code":
            continue
        if "".join(cell["source"]).strip() and cell.get("execution_count") is None:
            found.append(f"{name} cell {position} was not executed: {again}")
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        found += [f"{name} cell {position} ends in {error['ename']}: {again}" for error in errors]
    return found


def _file_problems(run_dir: Path, manifest: dict) -> list[str]:
    named = {f"tables/{name}.parquet": t["sha256"] for name, t in manifest["tables"].items()}
    for figure in manifest["figures"].values():
        named |= {f"figures/{name}": digest for name, digest in figure["files"].items()}
    found = []
    for name, digest in named.items():
        file = run_dir / name
        if not file.is_file():
            found.append(f"{name} is in the manifest but missing")
        elif store.sha256(file) != digest:
            found.append(f"{name} is not the file that the run wrote")
    return found


def _reference_problems(page: str, text: str, manifest: dict) -> list[str]:
    found = []
    for reference in dict.fromkeys(_VAL.findall(text)):
        key, _, form = reference.partition(":")
        try:
            facts.show(facts.lookup(manifest, key.strip()), form.strip())
        except PrunelibError as error:
            found.append(f"{page}: {error}")
    for figure_id in _FIGCARD.findall(text):
        files = manifest["figures"].get(figure_id, {}).get("files", {})
        missing = [suffix for suffix in figures.SUFFIXES if figure_id + suffix not in files]
        if missing:
            found.append(f"{page}: the run has no figure '{figure_id}' ({', '.join(missing)})")
    return found


# ---------------------------------------------------------------- staging


def stage(run_dir: Path, source: Path, root: Path | None = None) -> None:
    """Bring ``source``, Sphinx's source folder, up to date with the project and the run.

    Files whose content is unchanged keep their time stamp, so that Sphinx reads
    only what changed; files that no longer belong are removed.
    """
    run_dir, root = Path(run_dir), root or paths.project_root()
    notebooks, pages = chapters(root)
    manifest = store.read_json(run_dir / "manifest.json")
    wanted: dict[str, bytes] = {"conf.py": _CONF.encode()}
    for name in ["_config.yml", "_toc.yml", *pages]:
        wanted[name] = (root / name).read_bytes()
    for file in sorted((root / "book").rglob("*")):
        name = file.relative_to(root).as_posix()
        is_page = file.suffix in (".md", ".ipynb", ".pyc")
        if file.is_file() and not is_page:
            wanted[name] = file.read_bytes()
    for name in notebooks:
        executed = (run_dir / "notebooks" / f"{name}.ipynb").read_bytes()
        wanted[f"notebooks/{name}.ipynb"] = clean(executed)
        wanted[f"_extra/notebooks/{name}.ipynb"] = executed
    for figure_id, figure in manifest["figures"].items():
        for name in figure["files"]:
            wanted[f"_extra/figures/{name}"] = (run_dir / "figures" / name).read_bytes()
        wanted[f"_extra/figures/{figure_id}.py.txt"] = drawing_code(figure_id).encode()
    wanted["_extra/manifest.json"] = (run_dir / "manifest.json").read_bytes()
    wanted["_extra/claims.json"] = _json(claims_record(manifest))
    wanted["_extra/reference.json"] = _json(claims_record(committed.manifest(manifest["model"]["slug"], root)))
    for name, content in wanted.items():
        target = source / name
        if not target.is_file() or target.read_bytes() != content:
            with store.writing(target) as temporary:
                temporary.write_bytes(content)
    for file in [file for file in source.rglob("*") if file.is_file()]:
        if file.relative_to(source).as_posix() not in wanted:
            file.unlink()


def clean(executed: bytes) -> bytes:
    """An executed notebook as its page shows it.

    The parameters appear once, with the values of this run; run times and
    papermill's notes, which change with each run, are left out.
    """
    notebook = json.loads(executed)
    kept = notebook["metadata"].keys() & {"kernelspec", "language_info"}
    notebook["metadata"] = {key: notebook["metadata"][key] for key in kept}
    injected = [cell for cell in notebook["cells"] if "injected-parameters" in _tags(cell)]
    cells = [cell for cell in notebook["cells"] if cell not in injected]
    lines = [line for cell in injected for line in _lines(cell) if " = " in line]
    given = dict(line.split(" = ", 1) for line in lines)
    for cell in cells:
        if "parameters" in _tags(cell):
            cell["source"] = "\n".join(_with_value(line, given) for line in _lines(cell))
        cell["metadata"] = {"tags": _tags(cell)} if _tags(cell) else {}
    notebook["cells"] = cells
    return _json(notebook)


def _tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def _lines(cell: dict) -> list[str]:
    return "".join(cell["source"]).splitlines()


def _with_value(line: str, given: dict[str, str]) -> str:
    """``name = default  # why`` with the value of this run in place of the default."""
    name, equals, rest = line.partition(" = ")
    if not equals or name not in given:
        return line
    _, comment, why = rest.partition("  #")
    return f"{name} = {given[name]}{comment}{why}"


def drawing_code(figure_id: str) -> str:
    """The module that draws a figure, headed by the name of the function to look for."""
    function = figures.spec(figure_id).function
    line = inspect.getsourcelines(function)[1] + 1  # the head takes the first line
    head = f"# {function.__module__}: {figure_id} is drawn by {function.__name__}, line {line}"
    return f"{head}\n{inspect.getsource(inspect.getmodule(function))}"


def claims_record(manifest: dict) -> dict:
    """What ``site/claims.json`` holds: the ledger and the run it is about."""
    about = {key: manifest.get(key) for key in ("model", "profile", "seed", "code", "created")}
    return {"schema": 1, "run": about, "claims": claims.ledger(manifest)}


def _json(content) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


# ---------------------------------------------------------------- build


def build(run_dir: Path, site: Path = Path("site"), root: Path | None = None, current: bool = True) -> Path:
    """Render a run to ``site`` and return its ``index.html``.

    ``root`` is the project's folder; ``current`` is that of :func:`gate`. Intermediate files
    are kept in ``_build/`` beside the site, so that a second build renders only what
    changed. Raises :class:`NotPublishable` when the gate, Sphinx (any warning) or a check
    of the rendered pages fails, after writing every problem to stderr; the old site is
    then left as it was.
    """
    run_dir, site, root = Path(run_dir), Path(site).resolve(), root or paths.project_root()
    _refuse_if(gate(run_dir, root, current), f"{run_dir} cannot be published")
    if site.exists() and any(site.iterdir()) and not (site / "manifest.json").is_file():
        raise PrunelibError(
            f"{site} is not empty and holds no book; name another folder with --site"
        )
    manifest = store.read_json(run_dir / "manifest.json")
    work = site.parent / "_build" / f"{manifest['model']['slug']}-{manifest['profile']}"
    _forget_if_outdated(work, root)
    stage(run_dir, work / "source", root)
    _refuse_if(_sphinx(work), "the book could not be rendered")
    _add_files(work / "source" / "_extra", work / "html")
    _refuse_if(sitecheck.problems(work / "html"), "the rendered book has faults")
    _swap(work / "html", site)
    return site / "index.html"


def _refuse_if(problems: list[str], what: str) -> None:
    if problems:
        for problem in problems:
            print(f"- {problem}", file=sys.stderr)
        raise NotPublishable(what, problems)


def _forget_if_outdated(work: Path, root: Path) -> None:
    """Start afresh when what decides how every page looks has changed; Sphinx cannot tell."""
    files = [root / "_config.yml", root / "_toc.yml"]
    files += sorted((root / "book" / "_ext").rglob("*.py"))
    files += [Path(facts.__file__), Path(claims.__file__)]
    state = {str(file): store.sha256(file) for file in files}
    state |= {name: metadata.version(name) for name in _RENDERERS}
    if store.read_json(work / "state.json") != state:
        shutil.rmtree(work, ignore_errors=True)
        store.write_json(work / "state.json", state)


def _sphinx(work: Path) -> list[str]:
    """Run Sphinx; returns its warnings and errors (without any, the reason it stopped)."""
    warnings = work / "warnings.txt"
    options = "--builder html --nitpicky --fail-on-warning --keep-going --quiet --no-color"
    command = [sys.executable, "-m", "sphinx", *options.split(), "--warning-file", str(warnings)]
    folders = ["--doctree-dir", str(work / "doctrees"), str(work / "source"), str(work / "html")]
    done = subprocess.run(command + folders, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    # A page with a warning counts as done for Sphinx: read everything again next time.
    (work / "state.json").unlink(missing_ok=True)
    lines = warnings.read_text().splitlines() if warnings.is_file() else []
    lines = [line.replace(f"{work}/source/", "") for line in lines if line.strip()]
    return (
        lines or done.stderr.strip().splitlines()[-5:] or [f"Sphinx ended with {done.returncode}"]
    )


def _add_files(extra: Path, html: Path) -> None:
    """Put figures, notebooks and the run's records at their permanent addresses.

    Not through ``html_extra_path``: Sphinx skips it when no page changed, and
    never removes what is no longer there.
    """
    for folder in [folder for folder in extra.iterdir() if folder.is_dir()]:
        for file in (html / folder.name).glob("*.*"):
            if file.suffix != ".html":
                file.unlink()
    shutil.copytree(extra, html, dirs_exist_ok=True)


def _swap(rendered: Path, site: Path) -> None:
    """Replace ``site`` by a copy of ``rendered``; a killed build leaves the old or the new one."""
    fresh, old = (site.with_name(f".{site.name}.{word}") for word in ("new", "old"))
    try:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        unneeded = shutil.ignore_patterns(".buildinfo*", "*webpack-macros.html")  # theme's templates
        shutil.copytree(rendered, fresh, ignore=unneeded)
        if site.exists():
            site.rename(old)
        fresh.rename(site)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise PrunelibError(f"cannot write {site}: {error.strerror or error}") from error
