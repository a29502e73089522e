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

from prunelib import paths
from prunelib.errors import PrunelibError
from prunelib.files import new_folder, read_json, sha256, write_json, writing
from prunelib.report import (
    beside_page,
    cite,
    claims,
    drawings,
    evidence,
    facts,
    figures,
    icons,
    objections,
    pages,
    polish,
    sitecheck,
    stubs,
)
from prunelib.runs import beside, environment, folders, marks, schema
from prunelib.runs.sources import source_sha256

_VAL = re.compile(r"\{val\}`([^`]+)`")
_FIGCARD = re.compile(r"^\s*(?:`{3,}|:{3,})\{figcard\}\s*(\S+)", re.MULTILINE)
_RENDERERS = ("sphinx", "jupyter-book", "sphinx-book-theme", "myst-nb", "sphinx-mathjax-offline")
_DOCUMENTED = (
    "models/lm.py",
    "models/load.py",
    "methods/apply.py",
    "methods/base.py",
    "measure/trace.py",
    "measure/theory.py",
)
"""Modules whose docstrings a page shows (book/api.md)."""

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

    Checked: every notebook that was run was executed to its last cell without an error, from
    today's notebook and today's code; every file is the one the manifest describes, and is what its
    suffix says; every value and figure that a page names exists. Chapters that were not run
    (:func:`missing`) are no problem, unless none was; what only they record may then be missing too.
    Raises PrunelibError for a manifest that is none.
    """
    run_dir, root = Path(run_dir), root or paths.project_root()
    manifest = read_manifest(run_dir)
    notebooks, pages_of = chapters(root)
    absent = set(missing(manifest, root))
    if absent == set(notebooks):
        return [f"none of the book's chapters was run: `prunelib run {notebooks[0][:2]}`"]
    found = []
    for name in notebooks:
        if not (root / "notebooks" / f"{name}.ipynb").is_file():
            found.append(f"{name} is in _toc.yml but there is no such notebook")
        elif name not in absent:
            found += _notebook_problems(run_dir, root, name, manifest["notebooks"][name], current)
    found += _file_problems(run_dir, manifest)
    for page in pages_of:
        if not (root / page).is_file():
            found.append(f"{page} is in _toc.yml but does not exist")
        elif not absent:
            found += _reference_problems(page, (root / page).read_text(), manifest)
    try:
        objections.rows(manifest)
    except PrunelibError as error:
        found.append(f"an answer to what readers doubted: {error}")
    for name in notebooks:
        if name in absent or found:
            continue
        executed = _executed(run_dir, name)
        texts = [pages.source_of(cell) for cell in executed["cells"] if cell["cell_type"] == "markdown"]
        found += _reference_problems(name, "\n\n".join(texts), manifest) if not absent else []
    return found


def missing(manifest: dict, root: Path | None = None) -> list[str]:
    """Ids of the book's notebooks that this run has not executed, in the order of the book."""
    return [name for name in chapters(root)[0] if name not in manifest["notebooks"]]


def read_manifest(run_dir: Path) -> dict:
    """A run's manifest, checked. Raises PrunelibError where there is none or it is damaged."""
    if not (Path(run_dir) / "manifest.json").is_file():
        raise PrunelibError(f"{run_dir} has no manifest.json: run `prunelib run` first")
    manifest = schema.read(Path(run_dir) / "manifest.json", "manifest")
    known = {figure_id for figure_id in manifest["figures"] if figure_id in figures.FIGURES}
    for figure_id, figure in manifest["figures"].items():
        if figure_id not in known:
            raise PrunelibError(f"the run in {run_dir} has an unknown figure '{figure_id}'")
        if strange := [name for name in figure["files"] if name.removeprefix(figure_id) not in figures.SUFFIXES]:
            raise PrunelibError(f"the run in {run_dir} has a file '{strange[0]}' that is none of {figure_id}")
    return manifest


def _executed(run_dir: Path, name: str) -> dict:
    file = schema.plain_file(run_dir, "notebooks", f"{name}.ipynb")
    return pages.read(file.read_bytes(), str(file))


def _notebook_problems(run_dir: Path, root: Path, name: str, entry: dict, current: bool) -> list[str]:
    source = root / "notebooks" / f"{name}.ipynb"
    again = f"run `prunelib run {name[:2]}` again"
    try:
        executed = _executed(run_dir, name)
    except PrunelibError as error:
        return [f"{error}: {again}"]
    found = []
    if current and entry.get("source_sha256") != source_sha256(source):
        found.append(f"{name} changed since it was run: {again}")
    if current and entry.get("code", {}).get("digest") != environment.code_digest():
        found.append(f"{name} was run with other code than today's: {again}")
    if entry["sha256"] != sha256(run_dir / "notebooks" / f"{name}.ipynb"):
        found.append(f"{name}.ipynb is not the file that the run wrote: {again}")
    for position, cell in enumerate(executed["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        if pages.source_of(cell).strip() and cell.get("execution_count") is None:
            found.append(f"{name} cell {position} was not executed: {again}")
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        found += [f"{name} cell {position} ends in {error['ename'][:60]}: {again}" for error in errors]
    if current and not found and pages.differs(executed, pages.read(source.read_bytes(), str(source))):
        found.append(f"the executed {name} has other cells than its notebook: {again}")
    return found


def _file_problems(run_dir: Path, manifest: dict) -> list[str]:
    named = {("tables", f"{name}.parquet"): entry["sha256"] for name, entry in manifest["tables"].items()}
    for figure in manifest["figures"].values():
        named |= {("figures", name): digest for name, digest in figure["files"].items()}
    found = []
    for (place, name), digest in named.items():
        try:
            file = schema.plain_file(run_dir, place, name)
            if sha256(file) != digest:
                found.append(f"{place}/{name} is not the file that the run wrote")
            elif place == "figures":
                drawings.check(file)
                if name.endswith(".json"):
                    schema.read(file, "card")
        except PrunelibError as error:
            found.append(str(error))
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
        lacking = [suffix for suffix in figures.SUFFIXES if figure_id + suffix not in files]
        if lacking:
            found.append(f"{page}: the run has no figure '{figure_id}' ({', '.join(lacking)})")
    return found


# ---------------------------------------------------------------- staging


def stage(run_dir: Path, source: Path, root: Path | None = None) -> None:
    """Bring ``source``, Sphinx's source folder, up to date with the project and the run.

    Files whose content is unchanged keep their time stamp, so that Sphinx reads
    only what changed; files that no longer belong are removed. A chapter that was not run is a
    page that says so, with the command that runs it.
    """
    run_dir, root = Path(run_dir), root or paths.project_root()
    notebooks, pages_of = chapters(root)
    manifest = read_manifest(run_dir)
    absent = missing(manifest, root)
    wanted: dict[str, bytes] = {"conf.py": _CONF.encode()}
    for name in ["_config.yml", "_toc.yml", *pages_of]:
        wanted[name] = (root / name).read_bytes()
    if (root / "CHANGELOG.md").is_file():  # a page includes it
        wanted["CHANGELOG.md"] = (root / "CHANGELOG.md").read_bytes()
    for file in sorted((root / "book").rglob("*")):
        name = file.relative_to(root).as_posix()
        is_page = file.suffix in (".md", ".ipynb", ".pyc")
        if file.is_file() and not is_page:
            wanted[name] = file.read_bytes()
    for name in notebooks:
        if name in absent:
            wanted[f"notebooks/{name}.ipynb"] = _json(stubs.page(name, root, run_dir, manifest))
            continue
        executed = _executed(run_dir, name)
        wanted[f"notebooks/{name}.ipynb"] = _json(pages.page(executed))
        wanted[f"_extra/notebooks/{name}.ipynb"] = _json(pages.download(executed))
    if absent:
        for name in [name for name in wanted if name.endswith((".md", ".ipynb")) and not name.startswith("_extra/")]:
            wanted[name] = stubs.without_references(wanted[name], manifest["figures"], absent)
    for figure_id, figure in manifest["figures"].items():
        for name in figure["files"]:
            wanted[f"_extra/figures/{name}"] = schema.plain_file(run_dir, "figures", name).read_bytes()
        wanted[f"_extra/figures/{figure_id}.py.txt"] = drawing_code(figure_id).encode()
    if beside_page.PAGE in pages_of:
        files = beside_page.staged(run_dir, manifest, source.parent / "beside")
        wanted |= {f"_extra/{name}": content for name, content in files.items()}
    wanted["_extra/manifest.json"] = _json(manifest | {"not_run": absent})
    record = claims_record(manifest)
    reference = claims_record(beside.reference_manifest(manifest["model"].get("slug", ""), root))
    if reference == record:  # nothing is stored twice
        reference = {"schema": 1, "run": reference["run"], "same_as": "claims.json"}
    wanted["_extra/claims.json"], wanted["_extra/reference.json"] = _json(record), _json(reference)
    for name, content in wanted.items():
        target = source / name
        if not target.is_file() or target.read_bytes() != content:
            with writing(target) as temporary:
                temporary.write_bytes(content)
    for file in [file for file in source.rglob("*") if file.is_file()]:
        if file.relative_to(source).as_posix() not in wanted:
            file.unlink()


def drawing_code(figure_id: str) -> str:
    """The module that draws a figure, headed by the name of the function to look for."""
    function = figures.spec(figure_id).function
    line = inspect.getsourcelines(function)[1] + 1  # the head takes the first line
    head = f"# {function.__module__}: {figure_id} is drawn by {function.__name__}, line {line}"
    return f"{head}\n{inspect.getsource(inspect.getmodule(function))}"


def claims_record(manifest: dict) -> dict:
    """What ``site/claims.json`` holds: the ledger, the answers to what readers doubted, and the run they are about."""
    about = {key: manifest.get(key) for key in ("model", "profile", "seed", "code", "created")}
    return {"schema": 1, "run": about, "claims": claims.ledger(manifest), "objections": objections.rows(manifest)}


def _json(content) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


# ---------------------------------------------------------------- build


def build(run_dir: Path, site: Path = Path("site"), root: Path | None = None, current: bool = True) -> Path:
    """Render a run to ``site`` and return its ``index.html``.

    ``root`` is the project's folder; ``current`` is that of :func:`gate`. Intermediate files
    are kept in ``_build/`` beside the site, so that a second build renders only what
    changed. Raises PrunelibError for a ``site`` that is not ours to replace, and
    :class:`NotPublishable` when the gate, Sphinx (any warning) or a check
    of the rendered pages fails, after writing the first problems to stderr; the old site is
    then left as it was.
    """
    run_dir, site, root = Path(run_dir), Path(site).expanduser().resolve(), root or paths.project_root()
    refuse_site(site, run_dir, root)
    _refuse_if(gate(run_dir, root, current), f"{run_dir} cannot be published")
    manifest = read_manifest(run_dir)
    absent = missing(manifest, root)
    if absent:
        print(f"not run, and so in the contents only: {', '.join(absent)}", file=sys.stderr)
    work = site.parent / "_build" / f"{manifest['model'].get('slug', 'model')}-{manifest['profile']}"
    _own(work, "build")
    _forget_if_outdated(work, root, partial=bool(absent))
    stage(run_dir, work / "source", root)
    _refuse_if(_sphinx(work, partial=bool(absent)), "the book could not be rendered")
    _add_files(work / "source" / "_extra", work / "html")
    polish.polish(work / "html", yaml.safe_load((root / "_config.yml").read_text())["title"])
    _refuse_if(sitecheck.problems(work / "html"), "the rendered book has faults")
    _put_in_place(work / "html", site)
    return site / "index.html"


SHOWN = 10
"""Problems that are listed; of more only the number is told."""


def _refuse_if(problems: list[str], what: str) -> None:
    if problems:
        for problem in problems[:SHOWN]:
            print(f"- {problem}", file=sys.stderr)
        if len(problems) > SHOWN:
            print(f"- and {len(problems) - SHOWN} more", file=sys.stderr)
        raise NotPublishable(what, problems)


def refuse_site(site: Path, run: Path, root: Path | None = None) -> None:
    """Raises PrunelibError unless ``site`` may be made or replaced: absent, empty, or a site of ours.

    A run folder is neither inside the site nor around it, and nor is anything that somebody lives in.
    """
    site, run = Path(site).expanduser().resolve(), Path(run).resolve()
    root = (root or paths.project_root()).resolve()
    if site == run or site.is_relative_to(run) or run.is_relative_to(site):
        raise PrunelibError(f"the site and the run must not lie in each other: {site}, {run}")
    lived_in = [place for place in (root, Path.cwd(), Path.home()) if place.resolve().is_relative_to(site)]
    if lived_in:
        raise PrunelibError(f"{site} holds {lived_in[0]}: name a folder of its own with --site")
    if site.exists() and not site.is_dir():
        raise PrunelibError(f"{site} is a file: name a folder with --site")
    if not marks.is_empty(site) and not _is_site(site):
        raise PrunelibError(f"{site} is not empty and no site of prunelib: name another folder with --site")


def _is_site(folder: Path) -> bool:
    """Whether a folder carries the mark of a site, or is one of an older version by its two records."""
    if marks.is_marked(folder, "site"):
        return True
    record, manifest = (read_json(folder / f"{name}.json") for name in ("claims", "manifest"))
    rows = record.get("claims")
    ours = record.get("schema") == 1 and isinstance(rows, list) and [row.get("id") for row in rows] == [*claims.CLAIMS]
    return ours and manifest.get("schema") == folders.SCHEMA and isinstance(manifest.get("notebooks"), dict)


def _own(folder: Path, kind: str) -> None:
    """Make ``folder`` ours, or raise PrunelibError if it holds something and is not."""
    older = read_json(folder / "state.json")  # what decides how pages look, as older versions kept it
    if folder.is_symlink() or not (marks.is_empty(folder) or marks.is_marked(folder, kind) or "sphinx" in older):
        raise PrunelibError(f"{folder} is not empty and not ours: move it, or name a site elsewhere with --site")
    marks.mark(folder, kind)


def _forget_if_outdated(work: Path, root: Path, partial: bool) -> None:
    """Start afresh when what decides how every page looks has changed; Sphinx cannot tell."""
    files = [root / "_config.yml", root / "_toc.yml"]
    files += sorted((root / "book" / "_ext").rglob("*.py"))
    files += sorted(file for file in (root / "book" / "_static").rglob("*") if file.is_file())
    modules = (facts, claims, evidence, objections, cite, icons, polish)
    files += [Path(module.__file__) for module in modules] + [cite.source()]
    files += [Path(paths.__file__).parent / name for name in _DOCUMENTED]
    state = {str(file): sha256(file) for file in files} | {"partial": partial}
    state |= {name: metadata.version(name) for name in _RENDERERS}
    if read_json(work / "state.json") != state:
        for name in ("source", "html", "doctrees"):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(work / "state.json", state)


def _sphinx(work: Path, partial: bool) -> list[str]:
    """Run Sphinx; returns its warnings and errors (without any, the reason it stopped)."""
    warnings = work / "warnings.txt"
    options = "--builder html --nitpicky --fail-on-warning --keep-going --quiet --no-color"
    if partial:  # what leads to a place in a chapter that was not run
        options += " --define suppress_warnings=ref.ref,ref.numref,ref.doc,ref.myst,myst.xref_missing"
    command = [sys.executable, "-m", "sphinx", *options.split(), "--warning-file", str(warnings)]
    folders = ["--doctree-dir", str(work / "doctrees"), str(work / "source"), str(work / "html")]
    done = subprocess.run(command + folders, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    # A page with a warning counts as done for Sphinx: read everything again next time.
    (work / "state.json").unlink(missing_ok=True)
    lines = warnings.read_text().splitlines() if warnings.is_file() else []
    lines = [line.replace(f"{work}/source/", "") for line in lines if line.strip()]
    return lines or done.stderr.strip().splitlines()[-5:] or [f"Sphinx ended with {done.returncode}"]


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


def _put_in_place(rendered: Path, site: Path) -> None:
    """Replace ``site`` by a copy of ``rendered``; a killed build leaves the old or the new one."""
    unneeded = shutil.ignore_patterns(".buildinfo*", "*webpack-macros.html")  # theme's templates
    try:
        with new_folder(site) as fresh:
            marks.mark(fresh, "site")
            shutil.copytree(rendered, fresh, ignore=unneeded, dirs_exist_ok=True)
    except OSError as error:
        raise PrunelibError(f"cannot write {site}: {error.strerror or error}") from error
