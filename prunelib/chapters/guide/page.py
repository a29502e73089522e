"""What the guide shows and records: for each task type and budget, which model, how large, how fast, how sure."""

import math

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.guide import measure
from prunelib.chapters.guide.figures import TITLES
from prunelib.methods import parse
from prunelib.report import facts
from prunelib.report.sentences import Found, by_side, listed

NOTHING = (math.nan,) * 3
KINDS = {"drop": "dropped sublayers", "sparsify": "removed weights", "quantize": "quantized weights"}
"""Kinds whose speed the page speaks of."""


def record(ch: Chapter, options: pd.DataFrame, sizes: pd.DataFrame, speeds: pd.DataFrame) -> None:
    """Record the values ``guide.*`` and what they say."""
    about = sizes.set_index("spec")
    ch.value("guide.floor", measure.FLOOR, exact=True, fmt=".0%")
    ch.value("guide.models", options["spec"].nunique(), exact=True, fmt="d")
    ch.value("guide.dense_mb", about.loc["dense", "bytes"] / 1e6, exact=True, fmt=",.0f")
    for task in measure.TASKS:
        _record_task(ch, options, task)
    _record_speed(ch, options, speeds)
    changed = sizes[sizes["kind"].isin(("sparsify", "quantize"))]
    ch.value("guide.plain", changed["plain_share"].min() if len(changed) else None, exact=True, fmt=".0%")
    least = sizes.loc[sizes["plain_share"].idxmin()]
    ch.value("guide.plain_least", least["plain_share"], exact=True, fmt=".0%")
    ch.value("guide.plain_least_of", least["label"], exact=True, fmt="s")
    ch.say(say(ch.found))


def _record_task(ch: Chapter, options: pd.DataFrame, task: str) -> None:
    """The smallest model above the floor; where there is none, the one that keeps most, by the lower end."""
    own = options[options["task"] == task]
    found, key = measure.smallest(options, task), f"guide.{task}"
    ch.value(f"{key}.option", "none" if found is None else found["label"], exact=True, fmt="s")
    shown = found
    if found is None and own["lo"].notna().any():
        shown = own.loc[own["lo"].idxmax()]
    ch.value(f"{key}.nearest", "none" if shown is None else shown["label"], exact=True, fmt="s")
    ch.value(f"{key}.kept", *(NOTHING if shown is None else shown[["kept", "lo", "hi"]].astype(float)), fmt=".0%")
    for name in ("share", "plain_share"):
        ch.value(f"{key}.{name}", None if shown is None else float(shown[name]), exact=True, fmt=".0%")


def _record_speed(ch: Chapter, options: pd.DataFrame, speeds: pd.DataFrame) -> None:
    """Tokens a second of the dense model; of each kind, how much faster the most compressed timed model is."""
    rows = speeds.set_index("spec")
    ch.value("guide.speed.dense", *rows.loc["dense", ["rate", "rate_lo", "rate_hi"]].astype(float), fmt=".3g")
    ch.value("guide.speed.twin", *rows.loc["dense", ["faster", "faster_lo", "faster_hi"]].astype(float), fmt=".2f")
    share = options.drop_duplicates("spec").set_index("spec")["share"]
    for kind in KINDS:
        own = [spec for spec in rows.index if spec != "dense" and parse(spec).kind == kind]
        spec = share[own].idxmin() if own else None
        ch.value(f"guide.speed.{kind}.of", rows.loc[spec, "label"] if own else "none", exact=True, fmt="s")
        ratio = rows.loc[spec, ["faster", "faster_lo", "faster_hi"]].astype(float) if own else NOTHING
        ch.value(f"guide.speed.{kind}.faster", *ratio, fmt=".2f")


# ---------------------------------------------------------------- tables of the page


def by_task(ch: Chapter, options: pd.DataFrame, speeds: pd.DataFrame) -> pd.DataFrame:
    """A row a task type: the smallest model above the floor, its sizes, what it keeps, its speed."""
    rows = []
    for task, title in TITLES.items():
        found = measure.smallest(options, task)
        row = {"task type": title, "smallest model": "none" if found is None else found["label"]}
        if found is not None:
            row |= {
                "stored bytes, dense = 1": f"{found['share']:.2f}",
                "as plain floats": f"{found['plain_share']:.2f}",
                "kept": _shown(found[["kept", "lo", "hi"]], ".0%"),
                "times as fast": _faster(found["spec"], speeds),
            }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def by_budget(ch: Chapter, options: pd.DataFrame) -> pd.DataFrame:
    """A row a task type, a column a budget: the model that keeps most in at most so many bytes, and what it keeps."""
    rows = []
    for task, title in TITLES.items():
        row = {"task type": title}
        for budget in measure.BUDGETS:
            found = measure.within(options, task, budget)
            cell = "none" if found is None else f"{found['label']}: {_shown(found[['kept', 'lo', 'hi']], '.0%')}"
            row[f"at most {budget:.0%} of the bytes"] = cell
        rows.append(row)
    return pd.DataFrame(rows)


def by_model(ch: Chapter, options: pd.DataFrame, sizes: pd.DataFrame, speeds: pd.DataFrame) -> pd.DataFrame:
    """Every model, smallest first: megabytes, speed, and what it keeps of every task type."""
    wide = {task: rows.set_index("spec") for task, rows in options.groupby("task")}
    rows = []
    for size in sizes.sort_values("bytes", kind="stable").itertuples():
        row = {
            "model": size.label,
            "MB stored": f"{size.bytes / 1e6:,.1f}",
            "MB as plain floats": f"{size.plain / 1e6:,.1f}",
        }
        row |= {"tokens a second": _rate(size.spec, speeds), "times as fast": _faster(size.spec, speeds)}
        for task, title in TITLES.items():
            own = wide.get(task)
            known = own is not None and size.spec in own.index
            row[title] = _shown(own.loc[size.spec, ["kept", "lo", "hi"]], ".0%") if known else "100%"
        rows.append(row)
    return pd.DataFrame(rows)


def _stand_in(spec: str, speeds: pd.DataFrame) -> tuple[pd.Series | None, str]:
    """The row that tells how fast a model is, and a note where another model of its kind was timed for it."""
    rows = speeds.set_index("spec")
    if spec in rows.index:
        return rows.loc[spec], ""
    kind = parse(spec).kind
    same = [one for one in rows.index if one != "dense" and parse(one).kind == kind]
    if kind in ("drop", "joined") or not same:
        return None, ""
    return rows.loc[same[0]], f"as {rows.loc[same[0], 'label']}"


def _rate(spec: str, speeds: pd.DataFrame) -> str:
    row, note = _stand_in(spec, speeds)
    return note or ("not timed" if row is None else _shown(row[["rate", "rate_lo", "rate_hi"]], ".3g"))


def _faster(spec: str, speeds: pd.DataFrame) -> str:
    row, note = _stand_in(spec, speeds)
    return note or ("not timed" if row is None else _shown(row[["faster", "faster_lo", "faster_hi"]], ".2f"))


def _shown(interval, fmt: str) -> str:
    numbers = (float(number) if math.isfinite(number) else None for number in map(float, interval))
    return facts.show(dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": False, "fmt": fmt})


# ---------------------------------------------------------------- sentences


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: which model does for which task, and whether smaller is faster."""
    said = {task: _of_task(found, task) for task in measure.TASKS}
    said |= {"speed": _speed(found), "size": _size(found)}
    with_one = [task for task in measure.TASKS if found.show(f"guide.{task}.option") != "none"]
    undefined = [task for task in measure.TASKS if found.show(f"guide.{task}.nearest") == "none"]
    without = [task for task in measure.TASKS if task not in with_one and task not in undefined]
    floor, models = found.show("guide.floor"), found.show("guide.models")
    parts = []
    if with_one:
        names = (f"{TITLES[t]} ({found.show(f'guide.{t}.option')}, {found.show(f'guide.{t}.share')} of the bytes)"
                 for t in with_one)  # fmt: skip
        parts.append(
            f"Of {models} compressed models one keeps {floor} of the dense score or more for {listed(list(names))}."
        )
    if without:
        parts.append(f"None does for {listed([TITLES[task] for task in without])}.")
    if undefined:
        parts.append(f"Nothing can be said of {listed([TITLES[task] for task in undefined])}.")
    return said | {"answer": " ".join([*parts, said["speed"]])}


def _of_task(found: Found, task: str) -> str:
    key, title, floor = f"guide.{task}", TITLES[task], found.show("guide.floor")
    if found.show(f"{key}.nearest") == "none":
        return f"For {title} this run says nothing: the dense score leaves nothing to keep, or no interval is defined."
    kept = found.bracketed(f"{key}.kept")
    if found.show(f"{key}.option") == "none":
        return (
            f"For {title} no model keeps {floor} with its whole interval. The nearest is "
            f"{found.show(f'{key}.nearest')} ({kept}), at {found.show(f'{key}.share')} of the dense bytes."
        )
    share, plain = found.show(f"{key}.share"), found.show(f"{key}.plain_share")
    floats = "in any format" if share == plain else f"in its own format; as plain floats it takes {plain}"
    return (
        f"For {title} the smallest model that keeps {floor} with its whole interval is {found.show(f'{key}.option')} "
        f"({kept}): {share} of the dense bytes {floats}."
    )


def _speed(found: Found) -> str:
    """Which kinds of compression write faster here."""
    said = []
    for kind, name in KINDS.items():
        if not found.is_defined(f"guide.speed.{kind}.faster"):
            continue
        side = by_side(_told(found, kind), "write faster", "write slower", "are not told apart in speed")
        which, times = found.show(f"guide.speed.{kind}.of"), found.bracketed(f"guide.speed.{kind}.faster")
        said.append(f"{name} {side} ({which}: {times} times)")
    if not said:
        return "No speed has an interval in this run."
    return f"Against the dense model, measured here in turns, {listed(said)}."


def _told(found: Found, kind: str) -> int:
    """1 if a kind is faster than the dense model, −1 if it is slower, 0 if that cannot be told.

    The whole interval must be on one side of 1, and the ratio outside of the interval of the dense model in turns
    with itself, where no difference is.
    """
    side, ratio = found.side(f"guide.speed.{kind}.faster", 1.0), found.number(f"guide.speed.{kind}.faster")
    low, high = found.ends("guide.speed.twin")
    beyond = ratio > high if side > 0 else ratio < low
    return side if beyond else 0


def _size(found: Found) -> str:
    """What the models take without a format of their own."""
    said = "This run has no model with removed or quantized weights."
    if found.is_defined("guide.plain"):
        said = (
            f"Stored as plain floats, models with removed or quantized weights take {found.show('guide.plain')} of the "
            "dense bytes: a zero or a level takes 16 bits like any other number. Their smaller sizes are those of a "
            "format that stores masks or codes."
        )
    if found.number("guide.plain_least") < 1:
        least, share = found.show("guide.plain_least_of"), found.show("guide.plain_least")
        return f"{said} The smallest as plain floats is {least}, at {share}."
    return f"{said} As plain floats no model is smaller than the dense one."
