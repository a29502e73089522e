"""Task scores of the models of a run: the same items in all read-outs, and longer texts.

A unit of work is one compressed model. Each has tables of its own, named after its
specification, so that notebooks share what they have in common.
"""

from collections.abc import Sequence

import pandas as pd

from prunelib.files import sha256
from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.paths import data_dir
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import Given, compressed_model, learned_from, plan_of, scaled

SEEDED = ("drop:mlp:4", "wanda:0.5")
"""What is scored again with other calibration text, in chapters that hold it."""


CALIBRATED = ("sparsify", "quantize", "joined")
"""Kinds of models that calibration text makes; of a drop only the sites count."""


def drop_specs(run: Run) -> list[str]:
    """The drops of this run's profile, scaled to the depth of its model."""
    return scaled(run, [f"drop:{kind}:{n}" for kind, numbers in run.settings.drops.items() for n in numbers])


def paper_drops(run: Run) -> list[str]:
    """Drop-4 and Drop-8 of attention, MLP and blocks, as in the paper's case study, scaled to the model's depth."""
    return scaled(run, [f"drop:{kind}:{n}" for kind in ("attn", "mlp", "block") for n in (4, 8)])


def answers(
    run: Run, specs: Sequence[str], seeded: Sequence[tuple[str, int]] = (), *, text: Given | None = None
) -> pd.DataFrame:
    """Items asked of the dense model and each of ``specs``: a row an item and model (tasks.readouts).

    Those of :data:`SEEDED` are asked again after compression with other calibration text; so are ``seeded``, pairs of
    specification and calibration seed.
    Columns ``spec, label, seed`` say which model it is, ``chance`` what guessing among the item's options scores.
    With another ``text`` the last method of each of ``specs`` has read that instead; the dense model is then left out,
    and so are other seeds.
    """
    from prunelib.tasks.readouts import answers, demonstration

    key = {"items": [sha256(file) for file in (_items_file(), _shown_file())], "passages": run.settings.passages}
    wanted = [("dense", run.seed), *((spec, run.seed) for spec in specs)]
    wanted += [(spec, run.seed + i) for i in range(1, run.settings.seeds) for spec in specs if spec in SEEDED]
    wanted = list(dict.fromkeys([*wanted, *seeded]))
    wanted = wanted if text is None else [(spec, run.seed) for spec in specs]

    def lettered(spec: str) -> bool:
        return parse(spec).kind in run.settings.lettered

    def ask(spec: str) -> pd.DataFrame:
        return answers(run.lm, items(run), demonstration(run.seed), letters=lettered(spec))

    found = each_model(run, "answers", wanted, lambda spec: key | {"letters": lettered(spec)}, ask, text=text)
    return found.assign(chance=found["item_id"].map(chance(run)))


def texts(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Longer texts by the dense model and each of ``specs`` (tasks.collapse), a row a text.

    With ``surprise``, their mean negative log-likelihood under the dense model (nats a token).
    """
    from prunelib.engine.text import load_prompts
    from prunelib.tasks import collapse

    settings = run.settings
    key = {"prompts": sha256(prompts_file()), "long": [settings.long_prompts, settings.long_tokens]}
    prompts = load_prompts(str(prompts_file()), settings.long_prompts)
    wanted = [("dense", run.seed), *((spec, run.seed) for spec in specs)]

    def surprise(written: pd.DataFrame) -> pd.DataFrame:
        return written.assign(surprise=collapse.surprise(run.lm, written))

    def ask(_spec: str) -> pd.DataFrame:
        return collapse.write(run.lm, prompts, settings.long_tokens)

    return each_model(run, "texts", wanted, lambda _spec: key, ask, surprise)


def each_model(
    run: Run, name: str, wanted, key_of, ask, after=lambda found: found, text: Given | None = None
) -> pd.DataFrame:
    """``ask(spec)`` with each model applied, then ``after(result)`` on the dense one; a table of its own for each,
    known by ``key_of(spec)``. ``text``: what the last method of each has read instead of the run's own samples."""
    parts = []
    for number, (spec, seed) in enumerate(wanted):
        source = _same_as(run, spec, seed)
        calibrated = parse(source).kind in CALIBRATED
        slug = source.replace(":", "-").replace(JOIN, "_") + (f"_seed{seed}" if calibrated else "")
        about = {"spec": source, "calibration": [run.settings.calibration_key, seed] if calibrated else None}
        about |= learned_from(run, [source])
        if text is not None:
            slug, about = f"{slug}_{text.name}", about | {"text": text.key}

        def compute(spec=spec, seed=seed):
            with compressed_model(run, spec, seed, text).applied(run.lm):
                found = ask(spec)
            return after(found)

        compute.__module__ = ask.__module__  # what the table depends on is the code of what is asked
        found = run.table(f"{name}_{slug}", key_of(spec) | about, compute)
        report_progress(f"{name} of {len(wanted)} models", number + 1, len(wanted))
        parts.append(found.assign(spec=spec, label=parse(spec).label, seed=seed))
    return pd.concat(parts, ignore_index=True)


def _same_as(run: Run, spec: str, seed: int) -> str:
    """A drop by its sites in the order of layers: another seed that drops the same is the same model."""
    if parse(spec).kind != "drop":
        return spec
    from prunelib.methods.sites import Sites

    sites = plan_of(run, spec, seed).sites
    return Sites(tuple(sorted(sites, key=lambda site: (site.layer, site.kind)))).spec if sites else "dense"


def _items_file():
    return data_dir() / "tasks" / "passages.jsonl"


def _shown_file():
    return data_dir() / "tasks" / "demonstration.jsonl"


def prompts_file():
    return data_dir() / "tasks" / "prompts_long.jsonl"


def items(run: Run):
    """The items of this run: all questions of the first passages."""
    from prunelib.tasks.items import load_items

    return load_items(_items_file(), run.settings.passages, run.seed)


def chance(run: Run) -> pd.Series:
    """Multiple-choice score of a model that knows nothing, by item: one over the number of its options."""
    return pd.Series({item.id: 1 / len(item.options) for item in items(run)})
