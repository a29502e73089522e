"""The ``prunelib`` command: run, book, reference, compress, select, kl, compare, cite, whence, models, doctor.

Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 a check failed,
2 usage or bad input (one line on stderr, no traceback).
"""

import sys
from pathlib import Path

import click

from prunelib import __version__
from prunelib.errors import NotebookFailed, PrunelibError, nearest, refuse_bytes
from prunelib.runs import commandline
from prunelib.runs.manual import COMPARE_EPILOG, COMPRESS_EPILOG, EPILOG, KL_EPILOG, SELECT_EPILOG
from prunelib.runs.options import DEFAULT_MODEL, FLAGS, RunOptions
from prunelib.runs.progress import Screen

DEFAULT_RUN = Path("runs") / DEFAULT_MODEL / "quick"


@click.group(
    cls=commandline.Group,
    help="Executable companion to 'Demystifying When Pruning Works via Representation Hierarchies'.",
    epilog=EPILOG,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="prunelib %(version)s")
def commands() -> None:
    pass


# ---------------------------------------------------------------- commands


@commands.command(help="Execute notebooks on a model; resumes what is unfinished.")
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
@commandline.options(*FLAGS)
@click.option(
    "-p",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="a notebook parameter; may be repeated (see --dry-run for their names)",
)
@click.option(
    "--shard", metavar="K/N", help="compute the K-th of N shares of the chapters; a plain run then joins them"
)
@click.option("--fresh", is_flag=True, help="compute everything again")
@click.option(
    "--dry-run",
    is_flag=True,
    help="print what would run, with all parameters, and the time, memory, disk and operations that it will take here; "
    "nothing is downloaded",
)
@click.option("--json", "as_json", is_flag=True, help="with --dry-run: print JSON instead of a table")
def run(notebooks, given, shard, fresh, dry_run, as_json, **flags) -> int:
    import dataclasses

    from prunelib import paths
    from prunelib.chapters import checks
    from prunelib.models import fetch
    from prunelib.runs import folders, runner, shards, sources

    if as_json and not dry_run:
        raise PrunelibError("--json prints an estimate: use it with --dry-run")
    options = RunOptions.of(flags | {"seed": runner.convert("seed", flags["seed"], 0)})
    books = sources.select(list(notebooks))
    if shard:
        number, of = shards.parse(shard)
        books = shards.share(books, number, of, paths.slugify(options.model, options.revision))
        whole = options.folder
        options = dataclasses.replace(options, out=str(shards.folder(whole, number, of).resolve()))
    parameters = runner.parameters_of(books, options, list(given))
    changed = {b.id: {k: v for k, v in parameters[b.id].items() if v != b.defaults[k]} for b in books}
    for book in books:
        checks.check(book.chapter, changed[book.id])
    beside = runner.beside(options)
    folder = options.folder
    if dry_run:
        return _dry_run(books, options, parameters, as_json)
    folders.refuse_foreign(folder)
    if not fresh:
        folders.refuse_other(folder, parameters, {"slug": paths.slugify(options.model, options.revision)})
    if shard:
        folders.claim(whole)
    revision = options.revision or None
    source = fetch.fetch(options.model, revision)  # the long download happens here, once, with a bar
    for book in books:
        checks.fits(book.chapter, changed[book.id], source.path)
    identity = runner.identity(options.model, revision, beside)
    screen = Screen()
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


def _dry_run(books, options, parameters, as_json: bool) -> int:
    from prunelib.chapters.estimate import estimate
    from prunelib.report import estimate as shown

    if not as_json:
        print(shown.parameters(options.folder, parameters), flush=True)
    with commandline.progress() as say:
        found = estimate(books, options, parameters, say)
    print(shown.as_json(found, options.folder, parameters) if as_json else shown.text(found, options.folder))
    return 0


@commands.command(help="Check a run and render it to a site that needs no network.")
@commandline.folder("--run", DEFAULT_RUN, "run folder")
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
@commandline.folder("--run", None, "run folder")
@click.option("--add", is_flag=True, help="add its chapters to the committed reference, which keeps the others")
def reference(folder, add) -> int:
    from prunelib.chapters import load_figures
    from prunelib.report import reference as references

    load_figures()
    print(references.save(folder, add=add))
    return 0


@commands.command(help="Save a pruned or quantized model that plain transformers loads.", epilog=COMPRESS_EPILOG)
@commandline.options("model", "revision", "seed", "device", "dtype")
@click.option("--spec", metavar="SPEC", help="what to do, for example wanda:2:4 (see below)")
@click.option("--plan", metavar="FILE", help="instead: drop the sublayers of a plan by `prunelib select`")
@click.option("--out", required=True, metavar="DIR", help="new folder for the compressed model")
@commandline.calibration(32, 128)
def compress(model, revision, seed, device, dtype, spec, plan, out, calibration, sequences, length) -> int:
    from prunelib.methods import parse
    from prunelib.runs import runner, selection
    from prunelib.runs.options import check_seed

    if (spec is None) == (plan is None):
        raise PrunelibError("say what to do by one of --spec and --plan (see `prunelib compress --help`)")
    method = selection.read(plan) if plan else parse(spec)
    if method.spec == "dense":
        raise PrunelibError("dense is the model as it is: there is nothing to compress")
    from prunelib.methods.save import check_target, save, what_changed
    from prunelib.models.dropped import refuse_dropped

    check_target(out)
    given = {"sequences": sequences, "length": length, "seed": seed}
    sizes = {name: runner.convert(name, text, 0) for name, text in given.items()}
    check_seed(sizes["seed"])
    with commandline.progress(f"; nothing was written to {out}") as say:
        from prunelib.methods.apply import compress
        from prunelib.models.load import load
        from prunelib.runs import environment
        from prunelib.tasks import answered

        lm = load(model, revision or None, dtype, device)
        refuse_dropped(lm)
        tokens = None
        if method.needs:
            say(f"calibration: {sequences} × {length} tokens, {calibration} …")
            tokens = answered.calibration(lm, calibration, sizes["sequences"], sizes["length"], sizes["seed"])
        say(f"{method.label} …")
        show = lambda done, total: say(f"{method.label}: {done}/{total}")  # noqa: E731
        made = compress(lm, [method.spec], tokens.ids if tokens else None, progress=show)[method.spec]
        say(f"writing {out} …")
        about = {"code": environment.code_version(), "packages": environment.packages()}
        manifest = save(lm, made, out, tokens, sizes["seed"] if tokens else None, about)
    print(out)
    print(f"{made.label} of {model}: {what_changed(manifest)}, {made.bits_per_weight:.2f} bits a block weight")
    return 0


@commands.command(help="Choose sublayers to drop by what their removal does at the output.", epilog=SELECT_EPILOG)
@commandline.options("model", "revision", "seed", "device", "dtype")
@click.option("--criterion", default="kl", metavar="NAME", help="kl (default), varp, tv, cosine or random (see below)")
@click.option("--budget", default="8", metavar="N", help="how many to drop (default 8)")
@click.option("--kinds", default="attn,mlp", metavar="KINDS", help="attn,mlp (default), attn, mlp or block")
@click.option("--once", is_flag=True, help="rank once; without it the sites are measured again after every drop")
@click.option("--out", metavar="FILE", help="also write the plan there, for `prunelib compress --plan`")
@commandline.calibration(8, 48)
def select(out, **given) -> int:
    from prunelib.files import write_json
    from prunelib.report import selection as shown
    from prunelib.runs import runner, selection

    numbers = ("budget", "sequences", "length", "seed")
    request = selection.Request(**given | {name: runner.convert(name, given[name], 0) for name in numbers})
    target = selection.check_target(out) if out else None
    with commandline.progress("; nothing was written") as say:
        found = selection.select(request, say)
    if target:
        write_json(target, found.record())
    print(shown.table(found))
    return 0


@commands.command(help="Say how far two models' next-token distributions are apart.", epilog=KL_EPILOG)
@commandline.options("model", "revision", "seed", "device", "dtype")
@click.option("--against", required=True, metavar="B|SPEC", help="another model, or what to do to this one (see below)")
@click.option(
    "--text", default="passages", metavar="FILE", help="a .txt or .jsonl file (default: the project's passages)"
)
@click.option("--window", metavar="N", help="most tokens that are read together (default 2048, or the models' length)")
@commandline.calibration(32, 128)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
def kl(as_json, **given) -> int:
    import json

    from prunelib.report import comparison
    from prunelib.runs import pair, runner

    numbers = [n for n in ("window", "sequences", "length", "seed") if given[n] is not None]
    request = pair.Request(**given | {name: runner.convert(name, given[name], 0) for name in numbers})
    with commandline.progress() as say:
        found = pair.compare(request, say)
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
@commandline.folder("--run", DEFAULT_RUN, "run folder")
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
@click.option("--families", is_flag=True, help="list the families of models that can be used (model_type)")
def models(wanted, refetch, families) -> int:
    from prunelib.models import fetch

    if families:
        from prunelib.models.families import ARCHS

        print("\n".join(sorted(ARCHS)))
        return 0
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


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        refuse_bytes(sys.argv[1:] if arguments is None else arguments)
        return commands.main(arguments, prog_name="prunelib", standalone_mode=False) or 0
    except click.ClickException as error:
        print(f"prunelib: {commandline.in_one_line(error)}", file=sys.stderr)
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
