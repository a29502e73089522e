"""The ``prunelib`` command: run, book, reference, compress, kl, compare, cite, whence, models, doctor.

Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 a check failed,
2 usage or bad input (one line on stderr, no traceback).
"""

import os
import sys
from dataclasses import fields
from pathlib import Path

import click

from prunelib import __version__
from prunelib.errors import NotebookFailed, PrunelibError, nearest
from prunelib.runs.manual import COMPARE_EPILOG, COMPRESS_EPILOG, EPILOG, KL_EPILOG
from prunelib.runs.options import DEFAULT_MODEL, FLAGS, RunOptions
from prunelib.runs.progress import Screen as _Screen

DEFAULT_RUN = Path("runs") / DEFAULT_MODEL / "quick"


class _Command(click.Command):
    """A command whose epilog is printed as it is written."""

    def format_epilog(self, ctx, formatter) -> None:
        text = self.epilog or ""
        if "{usage}" in text:  # the methods are imported where they are to be listed
            from prunelib.methods.base import usage

            text = text.format(usage="\n".join(f"  {line}" for line in usage()))
        if text:
            formatter.write(f"\n{text}")


class _Group(_Command, click.Group):
    """The commands; an unknown one is told with the nearest."""

    command_class = _Command

    def invoke(self, ctx):
        """Whoever reads the output may have seen enough, as in ``| head -1``: click would end in an error then."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def resolve_command(self, ctx, args):
        name = args[0]
        if self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(
                f"unknown command '{name}'{nearest(name, known)}; use one of {', '.join(known)}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group,
    help="Executable companion to 'Demystifying When Pruning Works via Representation Hierarchies'.",
    epilog=EPILOG,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="prunelib %(version)s")
def commands() -> None:
    pass


def _options(*names: str):
    """The options of a run that a command takes, as :class:`~prunelib.runs.options.RunOptions` describes them."""

    def decorate(function):
        for one in reversed([one for one in fields(RunOptions) if one.name in names]):
            about = one.metadata
            name = f"--{one.name}"
            function = click.option(
                name, default=str(one.default), metavar=about["metavar"] or None, help=about["about"]
            )(function)
        return function

    return decorate


def _folder(flag: str, default: Path | None, text: str):
    return click.option(
        flag,
        "folder",
        type=Path,
        default=default,
        required=default is None,
        metavar="DIR",
        help=text + (f" (default {default})" if default else ""),
    )


def _calibration(function):
    """The options of what a method is calibrated on."""
    told = "self (default: sampled from the model), a .txt or .jsonl file, or hub:DATASET"
    for name, default, metavar, about in (
        ("--length", "128", "N", "tokens of each (default 128)"),
        ("--sequences", "32", "N", "calibration sequences (default 32)"),
        ("--calibration", "self", "TEXT", told),
    ):
        function = click.option(name, default=default, metavar=metavar, help=about)(function)
    return function


# ---------------------------------------------------------------- commands


@commands.command(help="Execute notebooks on a model; resumes what is unfinished.")
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
@_options(*FLAGS)
@click.option(
    "-p",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="a notebook parameter; may be repeated (see --dry-run for their names)",
)
@click.option("--fresh", is_flag=True, help="compute everything again")
@click.option("--dry-run", is_flag=True, help="print what would run, with all parameters")
def run(notebooks, given, fresh, dry_run, **flags) -> int:
    from prunelib import paths
    from prunelib.chapters import checks
    from prunelib.models import fetch
    from prunelib.runs import folders, runner, sources

    options = RunOptions.of(flags | {"seed": runner.convert("seed", flags["seed"], 0)})
    books = sources.select(list(notebooks))
    parameters = runner.parameters_of(books, options, list(given))
    changed = {b.id: {k: v for k, v in parameters[b.id].items() if v != b.defaults[k]} for b in books}
    for book in books:
        checks.check(book.chapter, changed[book.id])
    beside = runner.beside(options)
    folder = options.folder
    if dry_run:
        print(f"run folder: {folder}")
        for book in books:
            words = " ".join(f"{k}={v!r}" for k, v in parameters[book.id].items())
            print(f"{book.id}: {words}")
        return 0
    folders.refuse_foreign(folder)
    if not fresh:
        folders.refuse_other(folder, parameters, {"slug": paths.slugify(options.model, options.revision)})
    revision = options.revision or None
    source = fetch.fetch(options.model, revision)  # the long download happens here, once, with a bar
    for book in books:
        checks.fits(book.chapter, changed[book.id], source.path)
    identity = runner.identity(options.model, revision, beside)
    screen = _Screen()
    with runner.locked(folder):
        if fresh:
            folders.discard(folder)
        for number, book in enumerate(books, 1):
            head = f"[{number}/{len(books)}] {book.id}"
            if runner.is_done(folder, book, parameters[book.id], identity):
                screen.line(f"{head}: unchanged, kept")
                continue
            screen.status(f"{head} …")
            show = lambda text, head=head: screen.status(f"{head}: {text}")  # noqa: E731
            part = runner.execute(folder, book, parameters[book.id], identity, show)
            units = part["units"]
            screen.line(
                f"{head}: {part['executed']['wall_seconds']:.0f} s"
                f" ({units['computed']} units computed, {units['reused']} reused)"
            )
    print(folder)
    return 0


@commands.command(help="Check a run and render it to a site that needs no network.")
@_folder("--run", DEFAULT_RUN, "run folder")
@click.option("--site", type=Path, default=Path("site"), metavar="DIR", help="output (default site/)")
@click.option(
    "--reference",
    is_flag=False,
    flag_value=DEFAULT_MODEL,
    metavar="[MODEL]",
    help="render the committed reference run instead, without any model",
)
@click.option(
    "--pdf",
    "as_pdf",
    is_flag=True,
    help="also print the book to DIR/book.pdf, with page numbers, bookmarks and links; needs Chromium or Chrome",
)
def book(folder, site, reference, as_pdf) -> int:
    from prunelib.chapters import load_figures
    from prunelib.report import pdf, publish
    from prunelib.report import reference as references

    load_figures()
    if reference is not None:
        work = site.resolve().parent / "_build" / "reference"
        publish.refuse_site(site, work)
        folder = references.restore(references.folder(reference), work)
    if not (folder / "manifest.json").is_file():
        raise PrunelibError(f"no run in {folder}: start with `prunelib run`, or name a run with --run")
    try:
        print(publish.build(folder, site, current=reference is None), flush=True)
    except publish.NotPublishable as error:
        print(f"prunelib: {error}", file=sys.stderr)
        return 1
    if as_pdf:
        print(pdf.make(site))
    return 0


@commands.command(help="Keep a finished run as the committed reference of its model.")
@_folder("--run", None, "run folder")
def reference(folder) -> int:
    from prunelib.chapters import load_figures
    from prunelib.report import reference as references

    load_figures()
    print(references.save(folder))
    return 0


@commands.command(help="Save a pruned or quantized model that plain transformers loads.", epilog=COMPRESS_EPILOG)
@_options("model", "revision", "seed", "device", "dtype")
@click.option("--spec", required=True, metavar="SPEC", help="what to do, for example wanda:2:4 (see below)")
@click.option("--out", required=True, metavar="DIR", help="new folder for the compressed model")
@_calibration
def compress(model, revision, seed, device, dtype, spec, out, calibration, sequences, length) -> int:
    from prunelib.methods import parse
    from prunelib.runs import runner
    from prunelib.runs.options import check_seed

    method = parse(spec)
    if method.spec == "dense":
        raise PrunelibError("dense is the model as it is: there is nothing to compress")
    from prunelib.methods.save import check_target, save
    from prunelib.models.dropped import refuse_dropped

    check_target(out)
    given = {"sequences": sequences, "length": length, "seed": seed}
    sizes = {name: runner.convert(name, text, 0) for name, text in given.items()}
    check_seed(sizes["seed"])
    screen = _Screen()
    try:
        from prunelib.engine import text
        from prunelib.methods.apply import compress
        from prunelib.models.load import load
        from prunelib.runs import environment

        lm = load(model, revision or None, dtype, device)
        refuse_dropped(lm)
        tokens = None
        if method.needs:
            screen.status(f"calibration: {sequences} × {length} tokens, {calibration} …")
            tokens = text.calibration(lm, calibration, sizes["sequences"], sizes["length"], sizes["seed"])
        show = lambda done, total: screen.status(f"{method.label}: block {done}/{total}")  # noqa: E731
        screen.status(f"{method.label} …")
        made = compress(lm, [spec], tokens.ids if tokens else None, progress=show)[spec]
        screen.status(f"writing {out} …")
        about = {"code": environment.code_version(), "packages": environment.packages()}
        manifest = save(lm, made, out, tokens, sizes["seed"] if tokens else None, about)
    except KeyboardInterrupt:
        screen.line(f"prunelib: interrupted; nothing was written to {out}")
        return 130
    finally:
        screen.status("")
    print(out)
    print(f"{made.label} of {model}: {_what_changed(manifest)}, {made.bits_per_weight:.2f} bits a block weight")
    return 0


def _what_changed(manifest: dict) -> str:
    said, rows = [], manifest["weights"]
    if rows:
        numel = sum(row["shape"][0] * row["shape"][1] for row in rows)
        said.append(f"{len(rows)} matrices, {sum(row['zeros'] for row in rows) / numel:.1%} zeros")
    if manifest["drop"]:
        said.append(f"without {', '.join(manifest['drop'])}")
    return ", ".join(said)


@commands.command(help="Say how far two models' next-token distributions are apart.", epilog=KL_EPILOG)
@_options("model", "revision", "seed", "device", "dtype")
@click.option("--against", required=True, metavar="B|SPEC", help="another model, or what to do to this one (see below)")
@click.option(
    "--text", default="passages", metavar="FILE", help="a .txt or .jsonl file (default: the project's passages)"
)
@click.option("--window", metavar="N", help="most tokens that are read together (default 2048, or the models' length)")
@_calibration
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
def kl(as_json, **given) -> int:
    import json

    from prunelib.report import comparison
    from prunelib.runs import pair, runner

    numbers = [n for n in ("window", "sequences", "length", "seed") if given[n] is not None]
    request = pair.Request(**given | {name: runner.convert(name, given[name], 0) for name in numbers})
    screen = _Screen()
    try:
        found = pair.compare(request, screen.status)
    except KeyboardInterrupt:
        screen.line("prunelib: interrupted")
        return 130
    finally:
        screen.status("")
    print(
        json.dumps(found.record(), indent=1, ensure_ascii=False, allow_nan=False)
        if as_json
        else comparison.table(found)
    )
    return 0


@commands.command(help="Set runs side by side, and beside the paper: claims and curves.", epilog=COMPARE_EPILOG)
@click.argument("runs", nargs=-1, required=True, type=Path, metavar="RUN...")
@click.option("--out", type=Path, metavar="DIR", help="write a page, figures and CSV there instead of a table")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
def compare(runs, out, as_json) -> int:
    from prunelib.report import beside_page, side_by_side

    found = side_by_side.read(runs)
    if out:
        print(beside_page.write(found, out))
    if as_json or not out:
        print(beside_page.as_json(found) if as_json else beside_page.text(found))
    return 0


@commands.command(help="Print the BibTeX entry of a figure.")
@click.argument("figure", metavar="FIGURE-ID")
@_folder("--run", DEFAULT_RUN, "run folder")
def cite(figure, folder) -> int:
    from prunelib.report import figures

    cards = sorted(p.stem for p in (folder / "figures").glob("fig-*.json"))
    if not cards:
        raise PrunelibError(f"no figures in {folder}: run `prunelib run` first, or name a run with --run")
    if figure not in cards:
        near = nearest(figure, cards)
        raise PrunelibError(f"unknown figure '{figure}'{near}; there are {', '.join(cards)}")
    print(figures.bibtex(figures.load_card(folder / "figures", figure)))
    return 0


@commands.command(help="Say which run, model and code drew a figure file (SVG, PDF or PNG) or stand behind a book.pdf.")
@click.argument("file", type=Path, metavar="FILE")
def whence(file) -> int:
    import json

    from prunelib.report.provenance import read_provenance

    print(json.dumps(read_provenance(file), indent=2, sort_keys=True))
    return 0


@commands.command(help="List model aliases: licence, size, cached or not.")
@click.option("--fetch", "wanted", metavar="ALIAS", help="download and unpack a model now")
@click.option("--refetch", metavar="ALIAS", help="discard a cached model and fetch it again")
def models(wanted, refetch) -> int:
    from prunelib.models import fetch

    if wanted:
        print(fetch.fetch(wanted).path)
        return 0
    if refetch:
        print(fetch.refetch(refetch))
        return 0
    rows = fetch.models()
    columns = list(rows[0])
    widths = [max(len(c), *(len(str(r[c])) for r in rows)) for c in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(str(row[c]).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    print("Any hub id, local folder or .gguf file works in the same place.")
    return 0


@commands.command(help="Check this environment and say how to fix it.")
def doctor() -> int:
    from prunelib.runs import doctor as checks

    report = checks.report()
    for name, ok, message, fix in report:
        print(f"{'ok  ' if ok else 'FAIL'}  {name}: {message}")
        if not ok:
            print(f"      fix: {fix}")
    return 0 if all(ok for _, ok, _, _ in report) else 1


# ---------------------------------------------------------------- how it ends


def _refuse_bytes(arguments: list[str]) -> None:
    """Notebooks and records are text: an argument that is none cannot be kept in them."""
    for one in arguments:
        if not one.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in one):
            raise PrunelibError(f"this argument is not UTF-8: {one!r}")


def _in_one_line(error: click.ClickException) -> str:
    """What click found wrong with the arguments, as this program says such things."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        known = [name for one in context.command.params for name in one.opts] if context else []
        message = f"unknown argument {error.option_name}{nearest(error.option_name, known)}"
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
        message = message[:1].lower() + message[1:]
    return message + (f" (see `{context.command_path} --help`)" if context else "")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        _refuse_bytes(sys.argv[1:] if arguments is None else arguments)
        return commands.main(arguments, prog_name="prunelib", standalone_mode=False) or 0
    except click.ClickException as error:
        print(f"prunelib: {_in_one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"prunelib: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "home directory" not in str(error):  # a path that begins with ~ and a name that nobody has
            raise
        print(f"prunelib: a path begins with ~ and no known user: {error}", file=sys.stderr)
        return 2
    except PrunelibError as error:
        print(f"prunelib: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"prunelib: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        print("\nprunelib: interrupted; finished work is kept, run again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
