"""What independent readers of the paper found missing or doubtful, and which number of a run answers it.

The twelve points are those that readers raised after the paper's release; the words here are this project's. What is
said of a run comes from its recorded values and sentences alone: a chapter that was not run answers nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from prunelib.report import facts
from prunelib.runs import sources
from prunelib.runs.commands import command

ANSWERED, NOT_RUN, LATER = "answered", "not run", "not in this edition"


@dataclass(frozen=True)
class Objection:
    """One point: what was ``doubted``, the ``experiment`` of the ``chapter`` (a name) and the ``figure`` that shows it.

    ``numbers`` maps words to keys of recorded values, ``said`` names sentences of the chapter. Without a chapter the
    run as a whole answers.
    """

    title: str
    doubted: str
    experiment: str
    chapter: str = ""
    figure: str = ""
    numbers: tuple[tuple[str, str], ...] = ()
    said: tuple[str, ...] = ()


OBJECTIONS = (
    Objection(
        "Nothing can be repeated from what was released",
        "Raw outputs, drop lists, masks, calibration texts, seeds and figure data were not released, and no command "
        "gives a table or a figure of the paper.",
        "One command runs all chapters. Every table, figure and executed notebook of the run is kept with its "
        "checksum, seed, calibration tokens and drop lists; a run of profile full is committed.",
    ),
    Objection(
        "Which direction does the KL divergence have?",
        "Theorem, notes and scripts differ in the direction, and with it in the base of the weighted variance.",
        "Theorem 3 is tried in both directions at the same points, each with its own base; every KL of this book names "
        "its direction. The numbers say by which factor each estimate is typically off.",
        "kl-theorem",
        "fig-t3-model",
        (
            ("KL(dense ‖ pruned), variance under the dense p", "t3.normed.factor"),
            ("KL(pruned ‖ dense), variance under the pruned p", "t3.normed.reverse.factor"),
        ),
    ),
    Objection(
        "Softmax amplifies only sometimes",
        "A shift of all logits changes nothing, a high temperature damps, and so does a distribution that sits on one "
        "token.",
        "1 − cos p is divided by 1 − cos z at every point, and points are told apart by how sure the dense model is.",
        "layerwise",
        "fig-amplification",
        (
            ("share of points amplified, normed lens", "amplification.normed.share"),
            ("where one token has more than 0.95", "amplification.normed.share_saturated"),
            ("at all other points", "amplification.normed.share_open"),
            ("share of points amplified, raw lens", "amplification.raw.share"),
        ),
        ("amplifies",),
    ),
    Objection(
        "Stable logits may be a common offset",
        "The cosine of logits changes when a constant is added to all of them, and softmax does not.",
        "The common offset is taken off before the cosine: how much larger 1 − cos z is then, and what share of the "
        "logits' squared length the offset had.",
        "lm-head",
        "fig-head-centred",
        (
            ("1 − cos of centred logits over that of plain ones, raw lens", "head.raw.centred_times"),
            ("the same, normed lens", "head.normed.centred_times"),
            ("share of the offset, raw lens", "head.raw.offset_energy"),
            ("the same, normed lens", "head.normed.offset_energy"),
        ),
    ),
    Objection(
        "Why does the LM head attenuate?",
        "That the head shrinks the orthogonal part is observed and not explained.",
        "The head's spectrum, and where state and perturbation lie in it: their energies by singular direction predict "
        "the ratio, and the ratio is split into gain and angle.",
        "lm-head",
        "fig-head-spectrum",
        (
            ("ratio, attention", "head.attn.ratio"),
            ("ratio, MLP", "head.mlp.ratio"),
            ("typical error of the prediction from the spectrum, attention", "head.attn.profile_error"),
            ("the same if the perturbation had no direction", "head.attn.isotropic_error"),
        ),
        ("why",),
    ),
    Objection(
        "Letters of one toy prompt are no benchmark",
        "Benchmarks score the likelihood of option texts, not the letters after one prompt.",
        "The same items asked by letter and by whole text, and beside the options as many other likely tokens.",
        "option-subspace",
        "fig-options-kl",
        (
            ("KL among options over that of everything, by letter", "options.letter.ratio"),
            ("the same by whole text", "options.text.ratio"),
            ("the same for as many likely others", "options.letter.control"),
        ),
        ("where",),
    ),
    Objection(
        "Free texts mix several causes",
        "Two free texts differ by what pruning does, by what was written before, and by the draws.",
        "Three trajectories: both models on the dense text, both on the pruned one, each on its own; sampled with "
        "noise in common, several draws a prompt.",
        "decoding",
        "fig-decoding-causes",
        (
            ("share of the free divergence that the history makes", "decoding.history"),
            ("draws a prompt", "decoding.draws"),
        ),
        ("free",),
    ),
    Objection(
        "One layer at a time is not a pruned model",
        "The layer curves drop one sublayer on a given text; what collapses has many dropped at once.",
        "Single sublayers against the same ones dropped together: the sum of their KL over the joint KL.",
        "predicting-collapse",
        "fig-collapse-additivity",
        (
            ("smallest ratio of sum to joint", "collapse.additive_least"),
            ("largest", "collapse.additive_largest"),
        ),
        ("additive",),
    ),
    Objection(
        "Smallest and largest value are no interval",
        "Bands over a few prompts grow with every prompt; calibration used one seed.",
        "95 % intervals over whole prompts beside the bands, and the same methods calibrated again on other text.",
        "methods",
        "fig-methods-seeds",
        (
            ("calibration texts", "methods.seeds"),
            ("spread of the perplexity of Wanda 50 % over them", "methods.wanda-05.seed_spread"),
            ("overlap of its masks", "methods.wanda-05.overlap"),
        ),
    ),
    Objection(
        "Zeros say little where the dense score is near the floor",
        "Two of the paper's coding tasks start near zero.",
        "Every share is of a dense score above guessing, item by item, and is not defined where that cannot be told "
        "from nothing.",
        "dropping-layers",
        "fig-dropping-kept",
        (
            ("dense score in generation", "dropping.dense.generation"),
            ("dense score in multiple choice", "dropping.dense.choice"),
            ("generation kept, mean of the plans", "dropping.generation"),
            ("what is undefined", "dropping.undefined"),
        ),
    ),
    Objection(
        "The analysis prescribes nothing",
        "No pruning criterion that generates better comes out of it.",
        "Sublayers are chosen by what their removal does to the distribution of the next token, against the paper's "
        "ranking by cosine.",
        "choosing-what-to-prune",
        said=("answer",),
    ),
    Objection(
        "Attention was run without its cache",
        "The released layer script calls the pruned attention inside a cached loop, but without the cache: it sees one "
        "token.",
        "All earlier tokens stay in view. A dropped sublayer is taken out of the recorded stream of one forced pass, "
        "and tests hold it against the same model decoded with a cache and without. How far the shortcut moves the "
        "paper's curves is not measured here.",
        "layerwise",
        "fig-layerwise-attn",
        (
            ("points", "layerwise.n_points"),
            ("mean cosine of h, attention dropped", "layerwise.attn.raw.cos_h"),
            ("mean cosine of p, raw lens", "layerwise.attn.raw.cos_p"),
        ),
    ),
)


def rows(manifest: Mapping) -> list[dict]:
    """One row an objection, in order, safe for JSON.

    ``number, title, doubted, experiment, status`` (answered, not run, not in this edition), ``notebook, figure,
    command`` (None where there is none), ``numbers`` (``label, key, shown``) and ``said`` (sentences). A value that a
    finished chapter did not record raises PrunelibError.
    """
    known = {i.partition("-")[2]: i for i in sources.available()}
    return [_row(number, one, manifest, known) for number, one in enumerate(OBJECTIONS, 1)]


def _row(number: int, one: Objection, manifest: Mapping, known: Mapping[str, str]) -> dict:
    row = {"number": number, "title": one.title, "doubted": one.doubted, "experiment": one.experiment}
    row |= {"notebook": None, "figure": None, "command": None, "numbers": [], "said": []}
    if not one.chapter:
        counts = (("tables with a checksum", "tables"), ("figures with their data", "figures"))
        row["numbers"] = [
            {"label": label, "key": field, "shown": f"{len(manifest.get(field, {})):,}"} for label, field in counts
        ]
        return row | {"status": ANSWERED}
    if one.chapter not in known:
        return row | {"status": LATER}
    row["notebook"] = known[one.chapter]
    row["command"] = command(row["notebook"], manifest) if manifest.get("model", {}).get("name") else None
    if row["notebook"] not in manifest.get("notebooks", {}):
        return row | {"status": NOT_RUN}
    row["numbers"] = [
        {"label": label, "key": key, "shown": facts.show(facts.lookup(manifest, key))} for label, key in one.numbers
    ]
    said = (facts.show(facts.lookup(manifest, f"said.{one.chapter}.{name}")) for name in one.said)
    row["said"] = [sentence for sentence in said if sentence]
    figure = one.figure if one.figure in manifest.get("figures", {}) else None
    return row | {"status": ANSWERED, "figure": figure}
