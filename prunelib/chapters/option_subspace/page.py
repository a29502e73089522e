"""What the page on options shows and records, from the table of chapters.option_subspace.measure.options."""

import numpy as np
import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.errors import PrunelibError, nearest
from prunelib.measure import stats
from prunelib.measure.stats import Interval
from prunelib.measure.subspace import BANDS
from prunelib.methods import parse
from prunelib.report.sentences import Found, by_side, by_verdict

READOUTS = ("letter", "text")
GROUPS = 5  # of items by margin
STEPS = 50  # of a cumulative distribution
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


# ---------------------------------------------------------------- what figures show


def divergences(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: quantiles over items of KL(dense ‖ pruned) in nats, by ``label`` and ``subset``; by letter."""
    rows = []
    for (spec, label), own in _by_letter(table).groupby(["spec", "label"], sort=False):
        for subset in ("whole", "options", "others"):
            found = own[f"{subset}_kl_dense_pruned"].quantile(list(QUANTILES.values()))
            rows.append({"spec": spec, "label": label, "subset": subset} | dict(zip(QUANTILES, found, strict=True)))
    return pd.DataFrame(rows)


def one_item(table: pd.DataFrame, shown: str = "", item: str = "") -> pd.DataFrame:
    """Figure data: the paper's two bar figures for one item and model, a row a bar.

    ``shown`` is a specification, by default the model whose KL over the vocabulary is the median one; ``item`` an id,
    by default the item with the median ratio under it (of an even number the lower). Raises PrunelibError for
    a name that the table does not hold.
    """
    own = _by_letter(table)
    middle = own.groupby("spec", sort=False)["whole_kl_dense_pruned"].median()
    spec = parse(shown).spec if shown else _middle(middle)
    if spec not in middle.index:
        raise PrunelibError(f"this chapter did not measure '{spec}'{nearest(spec, list(middle.index))}")
    own = own[own["spec"] == spec].set_index("item_id")
    item = item or _middle(_ratio(own))
    if item not in own.index:
        raise PrunelibError(f"no item '{item}' here{nearest(item, list(own.index))}")
    row = own.loc[item]
    bars = []
    for panel, tokens, lists in (
        ("likeliest tokens", row["tokens"], ("p_dense", "p_pruned")),
        ("options among themselves", row["names"], ("q_dense", "q_pruned")),
    ):
        for name, label in zip(lists, ("dense", row["label"]), strict=True):
            places = enumerate(zip(tokens, row[name], strict=True))
            bars += [(panel, place, token, label, p) for place, (token, p) in places]
    found = pd.DataFrame(bars, columns=["panel", "place", "token", "label", "p"])
    return found.assign(spec=spec, item_id=item, question=row["question"])


def _middle(values: pd.Series) -> str:
    """Where the median lies, the lower of two; values that are not defined come last."""
    ordered = values.sort_values(kind="stable")
    return ordered.index[(max(1, ordered.notna().sum()) - 1) // 2]


def tail(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: quantiles of the options' ``mass``, ``first rank`` and ``last rank``, by read-out and model."""
    rows, shares = [], np.arange(STEPS + 1) / STEPS
    for readout in READOUTS:
        own = table[table["readout"] == readout]
        for model, some in (("dense", own.drop_duplicates("item_id")), ("pruned", own)):
            for quantity, column in (("mass", "mass"), ("first rank", "first_rank"), ("last rank", "last_rank")):
                values = some[f"{column}_{model}"].quantile(shares, interpolation="lower")
                about = {"quantity": quantity, "readout": readout, "model": model}
                rows.append(pd.DataFrame(about | {"share": shares, "value": values.to_numpy()}))
    return pd.concat(rows, ignore_index=True)


def bands(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``mean, lo, hi`` of the movement in log p (nats) and in centred z, by band and read-out."""
    rows = []
    for readout in READOUTS:
        own = table[table["readout"] == readout]
        for quantity in ("logp", "z"):
            for band in (*BANDS, "options"):
                found = stats.cluster_mean(own[f"{quantity}_{band}"], own["passage_id"])
                rows.append((quantity, readout, band, *found))
    return pd.DataFrame(rows, columns=["quantity", "readout", "band", "mean", "lo", "hi"])


def flips(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share of choices that flip, with its interval, in groups of items by the dense margin (nats)."""
    rows = []
    for readout in READOUTS:
        own = _flipped(table[(table["readout"] == readout) & table["margin_dense"].notna()])
        group = _groups(own, GROUPS)
        for number, some in own.groupby(group, sort=True):
            found = stats.share(some["flipped"], some["passage_id"])
            rows.append((readout, number, some["margin_dense"].median(), len(some), *found))
    return pd.DataFrame(rows, columns=["readout", "group", "margin", "count", "flipped", "lo", "hi"])


def _groups(own: pd.DataFrame, count: int) -> pd.Series:
    """Number of the group of each row, 0 the smallest margins: items in equal groups, all models of an item "
    "together."""
    margin = own.drop_duplicates("item_id").set_index("item_id")["margin_dense"]
    rank = margin.rank(method="first") - 1
    return own["item_id"].map((rank * count // max(1, len(rank))).astype(int))


def _by_letter(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["readout"] == "letter"]


def _flipped(own: pd.DataFrame) -> pd.DataFrame:
    return own.assign(flipped=~own["options_top1_same"].astype(bool), changed=~own["whole_top1_same"].astype(bool))


def _ratio(own: pd.DataFrame, over: str = "whole") -> pd.Series:
    """KL among the options over that of the vocabulary or of other tokens; NaN where that is 0."""
    below = own[f"{over}_kl_dense_pruned"]
    return own["options_kl_dense_pruned"] / below.where(below > 0)


# ---------------------------------------------------------------- what is recorded


def record(ch: Chapter, table: pd.DataFrame) -> None:
    """Record the values ``options.*``, claim C11 and the sentences of the page."""
    for name, column in (("items", "item_id"), ("passages", "passage_id"), ("models", "spec")):
        ch.value(f"options.{name}", table[column].nunique(), exact=True, fmt="d")
    guessed = 1 / table.drop_duplicates("item_id")["names"].map(len)
    ch.value("options.chance", guessed.mean(), exact=True, fmt=".0%")
    for readout in READOUTS:
        own = _flipped(table[table["readout"] == readout])
        where, name = own["passage_id"], f"options.{readout}"
        ch.values(
            {
                f"{name}.ratio": median(_ratio(own), where, ch.seed),
                f"{name}.kl": median(own["options_kl_dense_pruned"], where, ch.seed),
                f"{name}.whole_kl": median(own["whole_kl_dense_pruned"], where, ch.seed),
                f"{name}.reverse_ratio": median(
                    own["options_kl_pruned_dense"] / own["whole_kl_pruned_dense"].where(lambda kl: kl > 0),
                    where,
                    ch.seed,
                ),
                f"{name}.turn": median(own["options_one_minus_cos_p"], where, ch.seed),
                f"{name}.whole_turn": median(own["whole_one_minus_cos_p"], where, ch.seed),
                f"{name}.bound": median(1 / own["mass_dense"], where, ch.seed),
            }
        )
        ch.value(f"{name}.last_rank", *median(own["last_rank_dense"], where, ch.seed), fmt=".0f")
        clear = _groups(own[own["margin_dense"].notna()], 2) == 1
        ch.values(
            {
                f"{name}.mass": median(own["mass_dense"], where, ch.seed),
                f"{name}.mass_pruned": median(own["mass_pruned"], where, ch.seed),
                f"{name}.is_first": stats.share(own["first_rank_dense"] == 1, where),
                f"{name}.flips": stats.share(own["flipped"], where),
                f"{name}.changed": stats.share(own["changed"], where),
                f"{name}.steadier": _difference(own["changed"], own["flipped"], where),
                f"{name}.right": stats.share(own.drop_duplicates("item_id")["correct_dense"], _first(own)),
                f"{name}.close_minus_clear": _halves(own, clear),
                **{f"{name}.{part}_share": _part(own, f"kl_{part}") for part in ("options", "between", "rest")},
            },
            fmt=".0%",
        )
        for band, column in (("top", "logp_2–10"), ("options", "logp_options")):
            ch.value(f"{name}.moved.{band}", *stats.cluster_mean(own[column], where))
    own = _by_letter(table)
    ch.value("options.letter.control", *median(_ratio(own, "others"), own["passage_id"], ch.seed))
    over = {"passages": own["passage_id"].nunique(), "items": own["item_id"].nunique(), "rows": len(own)}
    ch.claim("C11", *median(_ratio(own), own["passage_id"], ch.seed), over=over)
    ch.say(say(ch.found))


def median(values: pd.Series, clusters: pd.Series, seed: int) -> Interval:
    """Median with a 95 % interval over clusters; rows that are not defined are left out."""
    frame = pd.DataFrame({"cluster": pd.factorize(clusters)[0], "x": np.asarray(values, dtype=float)}).dropna()
    if frame.empty:
        return (float("nan"),) * 3
    return stats.bootstrap(frame, lambda f: np.median(f.to_numpy()[:, 1]), by="cluster", seed=seed)


def _first(own: pd.DataFrame) -> pd.Series:
    return own.drop_duplicates("item_id")["passage_id"]


def _difference(first: pd.Series, second: pd.Series, clusters: pd.Series) -> Interval:
    """Mean of one minus mean of the other, paired by row."""
    return stats.cluster_mean(first.astype(float) - second.astype(float), clusters)


def _halves(own: pd.DataFrame, clear: pd.Series) -> Interval:
    """Share of flips in the half of the items with the smaller dense margins minus that in the other half."""
    own, clear = own.loc[clear.index], clear.astype(float)
    flipped = own["flipped"].astype(float)
    columns = np.stack([flipped * (1 - clear), 1 - clear, flipped * clear, clear], -1)
    return stats.of_sums(columns, own["passage_id"], lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3])


def _part(own: pd.DataFrame, column: str) -> Interval:
    """A part of the KL over the vocabulary, as a share of the sum over all rows; NaN where nothing moved."""
    both = own[[column, "whole_kl_dense_pruned"]].to_numpy(dtype=float)
    if not both[:, 1].sum() > 0:
        return (float("nan"),) * 3
    return tuple(float(end) for end in stats.share_of(stats.cluster_sums(both, own["passage_id"])))


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: do the options stay, is that special, and are they in the tail?"""
    ratio = found.show("options.letter.ratio")
    moved = by_verdict(
        found.verdict("C11"),
        f"Asked by letter, the options move less than everything does: the KL divergence among them is {ratio} times "
        "that over the whole vocabulary (median).",
        f"Asked by letter, the options do not move less than everything does: the KL divergence among them is {ratio} "
        "times that over the whole vocabulary (median).",
        f"Whether the letters move less than everything does is not decided: the KL divergence among them is {ratio} "
        "times that over the whole vocabulary (median).",
    )
    mass, bound = found.show("options.letter.mass"), found.show("options.letter.bound", "plain")
    where = by_side(
        found.side("options.letter.mass", 0.5),
        f"The letters are no tail: they hold {mass} of the dense probability (median), and with that much of it, "
        f"arithmetic alone keeps the ratio at or below {bound} in half of the items.",
        f"The letters lie beside the bulk of the distribution: they hold {mass} of the dense probability (median).",
        f"Whether the letters are most of the distribution is not decided: they hold {mass} of the dense probability "
        "(median).",
    )
    control = found.show("options.letter.control")
    special = by_side(
        found.side("options.letter.control", 1),
        "Options are not what makes it steady: they move more than as many of the likeliest other tokens do "
        f"({control} times their KL divergence, median).",
        "It is not the small number of tokens alone: the options move less than as many of the likeliest other tokens "
        f"do ({control} times their KL divergence, median).",
        f"The options are not told apart from as many of the likeliest other tokens ({control} times their KL "
        "divergence, median).",
    )
    flips, changed = found.show("options.letter.flips"), found.show("options.letter.changed")
    decision = by_side(
        found.side("options.letter.steadier", 0),
        f"The choice among the letters is steadier than the first token: {flips} of the choices flip, and {changed} of "
        "the first tokens change.",
        f"The choice among the letters is less steady than the first token: {flips} of the choices flip, and {changed} "
        "of the first tokens change.",
        f"The choice among the letters and the first token are not told apart: {flips} of the choices flip, and "
        f"{changed} of the first tokens change.",
    )
    by_text, text_flips = found.show("options.text.ratio"), found.show("options.text.flips")
    texts = by_side(
        found.side("options.text.ratio", 1),
        f"As whole texts the options move more than the next token does ({by_text} times its KL divergence, median), "
        f"and {text_flips} of the choices flip.",
        f"As whole texts, too, the options move less than the next token does ({by_text} times its KL divergence, "
        f"median), and {text_flips} of the choices flip.",
        f"As whole texts the options are not told apart from the next token ({by_text} times its KL divergence, "
        f"median), and {text_flips} of the choices flip.",
    )
    by_margin = by_side(
        found.side("options.letter.close_minus_clear", 0),
        "Choices flip more often where the dense model was close to another choice.",
        "Choices flip more often where the dense model's choice was clear.",
        "Whether choices flip more often at small dense margins is not decided.",
    )
    top, own = found.show("options.letter.moved.top"), found.show("options.letter.moved.options")
    return {
        "answer": f"{moved} {where} {decision}",
        "where": where,
        "special": special,
        "texts": texts,
        "margin": by_margin,
        "moved": f"In log p, the options move by {own} nats on average, and the tokens of ranks 2 to 10 by {top}.",
    }


def by_model(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over items, and shares, model by model and read-out, for the page."""
    rows = []
    for (label, readout), own in _flipped(table).groupby(["label", "readout"], sort=False):
        rows.append(
            {
                "model": label,
                "asked by": {"letter": "letter", "text": "whole text"}[readout],
                "cos p, vocabulary": 1 - own["whole_one_minus_cos_p"].median(),
                "cos p, options": 1 - own["options_one_minus_cos_p"].median(),
                "KL(dense‖pruned), vocabulary": own["whole_kl_dense_pruned"].median(),
                "KL(dense‖pruned), options": own["options_kl_dense_pruned"].median(),
                "KL(pruned‖dense), vocabulary": own["whole_kl_pruned_dense"].median(),
                "KL(pruned‖dense), options": own["options_kl_pruned_dense"].median(),
                "first token changes": own["changed"].mean(),
                "choice flips": own["flipped"].mean(),
                "mass, pruned": own["mass_pruned"].median(),
            }
        )
    return pd.DataFrame(rows).round(3)
