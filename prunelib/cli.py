"""The ``prunelib`` command: run, book, compress, cite, whence, models, doctor.

Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 a check failed,
2 usage or bad input (one line on stderr, no traceback).
"""

import argparse
import ast
import os
import sys
from pathlib import Path

from prunelib.errors import PrunelibError, nearest

DEFAULT_RUN = Path("runs/smollm2-135m-instruct/quick")

EPILOG = """\
examples:
  prunelib run                                     all notebooks, default model, profile quick
  prunelib run --model Qwen/Qwen2.5-0.5B-Instruct  the same for a model of the hub
  prunelib run 05 --profile smoke -p drop_count=4  one notebook, its own parameter changed
  prunelib book --run runs/Qwen--Qwen2.5-0.5B-Instruct/quick
  prunelib compress --spec wanda:2:4 --out DIR     a pruned model that transformers loads
  prunelib cite fig-layerwise-attn                 BibTeX of a figure
  prunelib whence figure.pdf                       which run, model and code drew this file
"""

COMPRESS_EPILOG = """\
specifications:
{usage}

  P = 0.5 removes half of the weights, 2:4 keeps 2 of every 4 in a row. B = 2 to 8 bits, one scale for G weights in
  a row (no gG: for the row); sym: symmetric grid; act: activation order. N sublayers; joint: attention and MLP in
  one ranking; angular: consecutive blocks; drop:attn:8:iter measures again after
  each. + joins methods: wanda:0.5+drop:mlp:4 removes weights, then sublayers.

examples:
  prunelib compress --spec wanda:2:4 --out smollm2-wanda
  prunelib compress --spec drop:attn:8 --out smollm2-drop8a --calibration my-texts.txt
  prunelib compress --model Qwen/Qwen2.5-0.5B --spec gptq:4:g64 --out qwen-gptq4 --sequences 128 --length 256

DIR loads with AutoModelForCausalLM.from_pretrained, prunelib.load or `prunelib run --model DIR`. Its weights are
plain floats, quantized ones on their grid, removed ones zero: the folder is not smaller. DIR/prunelib.json says
what was done to which model, on which tokens, and how many bits the weights would take.
"""


class Parser(argparse.ArgumentParser):
    """Usage errors in one line, with the nearest valid word, exit code 2."""

    def parse_known_args(self, args=None, namespace=None):
        # Left to itself, argparse reports what a subcommand does not know above it, where its options are not known.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def format_help(self) -> str:
        if self.epilog and "{usage}" in self.epilog:  # the methods are imported where they are to be listed
            from prunelib.methods.base import usage

            self.epilog = self.epilog.format(usage="\n".join(f"  {line}" for line in usage()))
        return super().format_help()

    def error(self, message: str):
        if "invalid choice" in message and "'" in message:
            word = ast.literal_eval(message.split("invalid choice: ")[1].rpartition(" (choose from")[0])
            choices = [c for a in self._actions for c in (a.choices or ())]
            message = f"unknown {message.split(':')[0].removeprefix('argument ')} '{word}'"
            message += f"{nearest(word, choices)}; use one of {', '.join(choices)}"
        elif message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            message = f"unknown argument {word}{nearest(word, self._option_string_actions)}"
        raise PrunelibError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> Parser:
    """The command line; each subcommand sets ``run``, the function that serves it."""
    parser = Parser(
        prog="prunelib",
        description=__doc__.split("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    import prunelib

    parser.add_argument("--version", action="version", version=f"prunelib {prunelib.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)

    def command(name, function, help, **options):
        made = commands.add_parser(name, help=help, description=help, allow_abbrev=False, **options)
        made.set_defaults(run=function)
        return made

    run = command("run", run_notebooks, "execute notebooks on a model; resumes what is unfinished")
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="05, 05-layerwise or a path; default: all")
    _model_options(run)
    run.add_argument("--profile", default="quick", help="smoke (seconds), quick (minutes) or full (hours)")
    run.add_argument(
        "-p",
        dest="given",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a notebook parameter; may be repeated (see --dry-run for their names)",
    )
    run.add_argument("--out", default="", metavar="DIR", help="run folder (default runs/MODEL/PROFILE)")
    run.add_argument("--fresh", action="store_true", help="compute everything again")
    run.add_argument("--dry-run", action="store_true", help="print what would run, with all parameters")

    book = command("book", build_book, "check a run and render it to a site that needs no network")
    book.add_argument(
        "--run",
        dest="folder",
        type=Path,
        default=DEFAULT_RUN,
        metavar="DIR",
        help=f"run folder (default {DEFAULT_RUN})",
    )
    book.add_argument("--site", type=Path, default=Path("site"), metavar="DIR", help="output (default site/)")
    book.add_argument(
        "--reference",
        nargs="?",
        const="smollm2-135m-instruct",
        metavar="MODEL",
        help="render the committed reference run instead, without any model",
    )

    keep = command("reference", keep_reference, "keep a finished run as the committed reference of its model")
    keep.add_argument("--run", dest="folder", type=Path, required=True, metavar="DIR", help="run folder")

    compress = command(
        "compress",
        compress_model,
        "save a pruned or quantized model that plain transformers loads",
        epilog=COMPRESS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _model_options(compress)
    compress.add_argument("--spec", required=True, help="what to do, for example wanda:2:4 (see below)")
    compress.add_argument("--out", required=True, metavar="DIR", help="new folder for the compressed model")
    texts = "self (default: sampled from the model), a .txt or .jsonl file, or hub:DATASET"
    compress.add_argument("--calibration", default="self", metavar="TEXT", help=texts)
    compress.add_argument("--sequences", default="32", metavar="N", help="calibration sequences (default 32)")
    compress.add_argument("--length", default="128", metavar="N", help="tokens of each (default 128)")

    cite = command("cite", cite_figure, "print the BibTeX entry of a figure")
    cite.add_argument("figure", metavar="FIGURE-ID", help="for example fig-layerwise-attn")
    cite.add_argument("--run", dest="folder", type=Path, default=DEFAULT_RUN, metavar="DIR", help="run folder")

    whence = command("whence", tell_whence, "say which run, model, data and code drew a figure file")
    whence.add_argument("file", type=Path, metavar="FILE", help="an SVG, PDF or PNG of the book")

    models = command("models", list_models, "list model aliases: licence, size, cached or not")
    models.add_argument("--fetch", metavar="ALIAS", help="download and unpack a model now")
    models.add_argument("--refetch", metavar="ALIAS", help="discard a cached model and fetch it again")

    command("doctor", examine, "check this environment and say how to fix it")
    return parser


def _model_options(command: argparse.ArgumentParser) -> None:
    """Which model, where, and with which seed."""
    add = command.add_argument
    add(
        "--model",
        default="smollm2-135m-instruct",
        metavar="ID",
        help="alias (see `prunelib models`), hub id, local folder or .gguf file",
    )
    add("--revision", default="", metavar="SHA", help="hub branch, tag or commit")
    add("--seed", default="0", metavar="N", help="seed of everything random (default 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16, float64")


# ---------------------------------------------------------------- commands


def run_notebooks(args) -> int:
    from prunelib import fetch, paths, runfolder, runner, sources
    from prunelib.experiments import checks, run_folder

    seed = runner.convert("seed", args.seed, 0)
    common = {"model": args.model, "revision": args.revision, "profile": args.profile, "out": args.out,
              "seed": seed, "device": args.device, "dtype": args.dtype}  # fmt: skip
    books = sources.select(args.notebooks)
    parameters = runner.plan(books, common, args.given)
    changed = {b.id: {k: v for k, v in parameters[b.id].items() if v != b.defaults[k]} for b in books}
    for book in books:
        checks.check(book.id, changed[book.id])
    folder = run_folder(args.model, args.revision, args.profile, args.out)
    if args.dry_run:
        print(f"run folder: {folder}")
        for book in books:
            words = " ".join(f"{k}={v!r}" for k, v in parameters[book.id].items())
            print(f"{book.id}: {words}")
        return 0
    runfolder.refuse_foreign(folder)
    if not args.fresh:
        runfolder.refuse_other(folder, parameters, {"slug": paths.slugify(args.model, args.revision)})
    source = fetch.fetch(args.model, args.revision or None)  # the long download happens here, once, with a bar
    for book in books:
        checks.fits(book.id, changed[book.id], source.path)
    identity = runner.identity(args.model, args.revision or None, args.profile)
    screen = _Screen()
    with runner.locked(folder):
        if args.fresh:
            runfolder.discard(folder)
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


def build_book(args) -> int:
    from prunelib import publish, reference

    folder, current = args.folder, args.reference is None
    if not current:
        work = args.site.resolve().parent / "_build" / "reference"
        folder = reference.restore(reference.folder(args.reference), work)
    if not (folder / "manifest.json").is_file():
        raise PrunelibError(f"no run in {folder}: start with `prunelib run`, or name a run with --run")
    try:
        print(publish.build(folder, args.site, current=current))
    except publish.NotPublishable as error:
        print(f"prunelib: {error}", file=sys.stderr)
        return 1
    return 0


def keep_reference(args) -> int:
    from prunelib import reference

    print(reference.save(args.folder))
    return 0


def compress_model(args) -> int:
    from prunelib import runner
    from prunelib.methods import parse

    method = parse(args.spec)
    if method.spec == "dense":
        raise PrunelibError("dense is the model as it is: there is nothing to compress")
    from prunelib.experiments.chapter import check_seed
    from prunelib.methods.save import check_target, refuse_dropped, save

    check_target(args.out)
    sizes = {name: runner.convert(name, getattr(args, name), 0) for name in ("sequences", "length", "seed")}
    check_seed(sizes["seed"])
    screen = _Screen()
    try:
        from prunelib import lm as models
        from prunelib import store, text
        from prunelib.methods.apply import compress

        lm = models.load(args.model, args.revision or None, args.dtype, args.device)
        refuse_dropped(lm)
        tokens = None
        if method.needs:
            screen.status(f"calibration: {args.sequences} × {args.length} tokens, {args.calibration} …")
            tokens = text.calibration(lm, args.calibration, sizes["sequences"], sizes["length"], sizes["seed"])
        show = lambda done, total: screen.status(f"{method.label}: block {done}/{total}")  # noqa: E731
        screen.status(f"{method.label} …")
        made = compress(lm, [args.spec], tokens.ids if tokens else None, progress=show)[args.spec]
        screen.status(f"writing {args.out} …")
        about = {"code": store.code_version(), "packages": store.packages()}
        manifest = save(lm, made, args.out, tokens, sizes["seed"] if tokens else None, about)
    except KeyboardInterrupt:
        screen.line(f"prunelib: interrupted; nothing was written to {args.out}")
        return 130
    finally:
        screen.status("")
    print(args.out)
    print(f"{made.label} of {args.model}: {_what_changed(manifest)}, {made.bits_per_weight:.2f} bits a block weight")
    return 0


def _what_changed(manifest: dict) -> str:
    said, rows = [], manifest["weights"]
    if rows:
        numel = sum(row["shape"][0] * row["shape"][1] for row in rows)
        said.append(f"{len(rows)} matrices, {sum(row['zeros'] for row in rows) / numel:.1%} zeros")
    if manifest["drop"]:
        said.append(f"without {', '.join(manifest['drop'])}")
    return ", ".join(said)


def cite_figure(args) -> int:
    from prunelib import figures

    cards = sorted(p.stem for p in (args.folder / "figures").glob("fig-*.json"))
    if not cards:
        raise PrunelibError(f"no figures in {args.folder}: run `prunelib run` first, or name a run with --run")
    if args.figure not in cards:
        near = nearest(args.figure, cards)
        raise PrunelibError(f"unknown figure '{args.figure}'{near}; there are {', '.join(cards)}")
    print(figures.bibtex(figures.load_card(args.folder / "figures", args.figure)))
    return 0


def tell_whence(args) -> int:
    import json

    from prunelib import figures

    print(json.dumps(figures.read_provenance(args.file), indent=2, sort_keys=True))
    return 0


def list_models(args) -> int:
    from prunelib import doctor, fetch

    if args.fetch:
        print(fetch.fetch(args.fetch).path)
        return 0
    if args.refetch:
        print(fetch.refetch(args.refetch))
        return 0
    rows = doctor.models()
    columns = list(rows[0])
    widths = [max(len(c), *(len(str(r[c])) for r in rows)) for c in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(str(row[c]).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    print("Any hub id, local folder or .gguf file works in the same place.")
    return 0


def examine(args) -> int:
    from prunelib import doctor

    checks = doctor.report()
    for name, ok, message, fix in checks:
        print(f"{'ok  ' if ok else 'FAIL'}  {name}: {message}")
        if not ok:
            print(f"      fix: {fix}")
    return 0 if all(ok for _, ok, _, _ in checks) else 1


class _Screen:
    """Progress on stderr: one living line on a terminal, plain lines elsewhere."""

    def __init__(self):
        self.live = sys.stderr.isatty()

    def status(self, text: str) -> None:
        if self.live:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        start = "\r\033[K" if self.live else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)


def _refuse_bytes(arguments: list[str]) -> None:
    """Notebooks and records are text: an argument that is none cannot be kept in them."""
    for one in arguments:
        if not one.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in one):
            raise PrunelibError(f"this argument is not UTF-8: {one!r}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from prunelib import runner

    try:
        _refuse_bytes(sys.argv[1:] if arguments is None else arguments)
        args = build_parser().parse_args(arguments)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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
    except runner.NotebookFailed as error:
        print(f"prunelib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprunelib: interrupted; finished work is kept, run again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
