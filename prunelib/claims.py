"""The paper's claims C1–C16 as data: which number decides each, and by what rule.

A claim is decided by one number with an interval. The rule compares that number
with a threshold fixed here, before anything is measured:

- *supported*: the whole interval satisfies the rule,
- *not supported*: the whole interval fails it,
- *undecided*: the threshold lies inside the interval, or the number is not finite.

A number marked exact has no interval and is compared directly. The rules were
written for this book; the paper states its claims in words.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import PrunelibError, nearest

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
MEASURED, NOT_YET = "measured in this book", "not yet"

_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and the number that decides it.

    ``source`` says where the paper makes it; ``measure`` names the deciding number,
    with its unit and the points it is taken over; ``notebook`` is the id of the
    notebook that measures it, or None when that is left to a later chapter.
    """

    id: str
    statement: str
    source: str
    measure: str
    op: str
    threshold: float
    notebook: str | None = None

    @property
    def rule(self) -> str:
        """The decision rule in words: ``"the number is at least 0.9"``."""
        return f"the number is {_WORDS[self.op]} {self.threshold:g}"


# A "point" is one (prompt, position, layer, sublayer): that sublayer alone is dropped there.
_POINTS = "all points"
_MIDDLE = "points of the middle half of the layers"
_NORMED = "normed lens"
_RAW = "raw lens"
# A correlation over all points was decided by the two sublayers of the first layer. Equal weight
# to every sublayer and medians leave the verdict to the others; 2 is what "predicts" may be off by.
_FACTOR = (
    "factor by which the estimate is typically off: median of |log(estimate/measurement)| over "
    "the points of each sublayer, then over the sublayers "
    "(all points whose change exceeds the rounding of the trace)"
)

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "C1",
            "Theorem 1 predicts how far a perturbation turns the hidden state.",
            "Theorem 1",
            f"{_FACTOR}; quantity: 1 − cos h",
            "<=",
            2.0,
            "01-cosine-theorem",
        ),
        Claim(
            "C2",
            "Theorem 2 predicts how far a logit perturbation turns the probability vector.",
            "Theorem 2",
            f"{_FACTOR}; quantity: 1 − cos p at T = 1, {_NORMED}",
            "<=",
            2.0,
            "02-softmax-theorem",
        ),
        Claim(
            "C3",
            "Theorem 3 predicts the KL divergence that a logit perturbation causes.",
            "Theorem 3",
            f"{_FACTOR}; quantity: kl(dense, pruned) in nats at T = 1, {_NORMED}",
            "<=",
            2.0,
            "03-kl-theorem",
        ),
        Claim(
            "C4",
            "Dropping one sublayer in the middle layers leaves the cosine of h and of z near 1, "
            "while the cosine of p spreads widely.",
            "Layerwise figures (fig:pruning_hierarchies_attn, fig:pruning_hierarchies_mlp)",
            f"5th percentile of cos z minus 5th percentile of cos p at T = 1 ({_MIDDLE}); {_RAW}",
            ">",
            0.0,
            "05-layerwise",
        ),
        Claim(
            "C5",
            "The LM head shrinks the part of the perturbation that is orthogonal to the state, "
            "relative to the length of the state.",
            "Discussion of the LM head",
            "median of the relative orthogonal part of the change in z divided by the same in h "
            f"({_POINTS}); {_RAW}",
            "<",
            1.0,
            "04-lm-head",
        ),
        Claim(
            "C6",
            "Softmax amplifies: the probability vector turns further than the logit vector.",
            "Theorem 2 and the layerwise figures",
            f"share of points with 1 − cos p above 1 − cos z at T = 1 ({_POINTS}); {_NORMED}",
            ">",
            0.5,
            "05-layerwise",
        ),
        Claim(
            "C7",
            "A lower temperature makes the change in probabilities larger.",
            "Factor 1/T² in Theorems 2 and 3",
            "mean 1 − cos p at the lowest temperature of the run divided by its mean at T = 1 "
            f"({_MIDDLE}); {_NORMED}",
            ">",
            1.0,
            "05-layerwise",
        ),
        Claim(
            "C8",
            "With whole sublayers dropped, multiple choice survives and generation collapses.",
            "Task tables and curves (table:task_suite, fig:pruning_*)",
            "share of the dense score kept in multiple choice minus share kept in generation, "
            "on the same items, mean over the drop plans of the chapter",
            ">",
            0.0,
            "08-dropping-layers",
        ),
        Claim(
            "C9",
            "With weights pruned inside the layers, multiple choice survives and generation "
            "collapses.",
            "Task tables for magnitude, Wanda and SparseGPT",
            "share of the dense score kept in multiple choice minus share kept in generation, "
            "on the same items, mean over the sparsity patterns of the chapter",
            ">",
            0.0,
            "09-sparsity",
        ),
        Claim(
            "C10",
            "Retrieval survives the dropping of sublayers.",
            "Retrieval rows of table:task_suite",
            "share of the dense nDCG@10 kept by an embedding model with a quarter of its "
            "attention sublayers dropped",
            ">=",
            0.9,
            "11-retrieval",
        ),
        Claim(
            "C11",
            "The probabilities of the answer options, taken among themselves, move less than the "
            "top of the whole distribution.",
            "Subspace analysis at the answer position",
            "median over items of the KL divergence among the options divided by the KL "
            "divergence over the whole vocabulary, at the answer position",
            "<",
            1.0,
        ),
        Claim(
            "C12",
            "Errors compound over decoding steps.",
            "Step-by-step decoding figure (fig:decoding)",
            "mean kl(dense, pruned) in the last quarter of the decoding steps divided by its mean "
            "in the first quarter, each model reading its own text",
            ">",
            1.0,
        ),
        Claim(
            "C13",
            "At similar memory, 4-bit quantization generates far better than pruning.",
            "Quantization panels (fig:pruning_quant)",
            "share of the dense generation score kept by 4-bit quantization minus the largest "
            "share kept by a pruned model that needs at least as much memory",
            ">",
            0.0,
        ),
        Claim(
            "C14",
            "The KL divergence predicts the collapse of generation.",
            "Discussion of Theorem 3 and the decoding figures",
            "Spearman correlation between mean kl(dense, pruned) and the share of the generation "
            "score lost, over the compressed models of the book",
            ">=",
            0.8,
        ),
        Claim(
            "C15",
            "Generation needs post-training: fine-tuning a pruned model restores it.",
            "Discussion of post-training",
            "share of the lost generation score that fine-tuning brings back",
            ">",
            0.0,
        ),
        Claim(
            "C16",
            "Multiple-choice scores of a pruned model say little about its chat or code.",
            "Conclusion",
            "mean share of the generation score lost by the compressed models that keep at least "
            "95 % of the dense multiple-choice score",
            ">",
            0.05,
            "09-sparsity",
        ),
    )
}


def judge(claim: Claim, value: float, lo: float | None = None, hi: float | None = None) -> str:
    """``"supported"``, ``"not supported"`` or ``"undecided"`` for a measured number.

    ``lo`` and ``hi`` are the ends of its interval; without them the number counts
    as exact. The interval decides, not the point. Raises :class:`ValueError` when
    only one end is given or the ends are in the wrong order.
    """
    if (lo is None) != (hi is None):
        raise ValueError(f"{claim.id}: an interval needs both ends, got {lo} and {hi}")
    ends = (value,) if lo is None else (lo, hi)
    if not all(math.isfinite(number) for number in (value, *ends)):
        return UNDECIDED
    if lo is not None and lo > hi:
        raise ValueError(f"{claim.id}: the interval {lo} to {hi} is upside down")
    satisfied = [_OPERATORS[claim.op](number, claim.threshold) for number in ends]
    if all(satisfied):
        return SUPPORTED
    return UNDECIDED if any(satisfied) else NOT_SUPPORTED


def ledger(manifest: Mapping) -> list[dict]:
    """One row per claim, in order C1 to C16, ready for ``site/claims.json``.

    ``manifest`` is a run's manifest; its ``claims`` hold ``value``, ``lo``, ``hi``,
    ``exact`` and ``notebook``. The verdict is judged here, so that a page never
    shows one that an older rule gave. Claims the run did not measure have status
    ``"not yet"`` and None for every number and for the verdict. Non-finite numbers
    become None, as JSON has no word for them; an estimate without an interval is undecided.
    """
    measured = manifest.get("claims", {})
    for name in measured:
        if name not in CLAIMS:
            raise PrunelibError(f"the manifest holds an unknown claim '{name}'"
                                f"{nearest(name, CLAIMS)}")
    return [_row(claim, measured.get(claim.id)) for claim in CLAIMS.values()]


def _row(claim: Claim, entry: Mapping | None) -> dict:
    row = {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "measure": claim.measure,
        "rule": claim.rule,
        "value": None,
        "lo": None,
        "hi": None,
        "exact": None,
        "verdict": None,
        "notebook": claim.notebook,
        "status": NOT_YET,
    }
    if entry is None:
        return row
    value, lo, hi = (_number(entry.get(key)) for key in ("value", "lo", "hi"))
    exact = bool(entry.get("exact", False))
    # An estimate stored without an interval decides nothing.
    verdict = judge(claim, value) if exact else judge(claim, value, lo, hi)
    return row | {
        "value": _or_none(value),
        "lo": None if exact else _or_none(lo),
        "hi": None if exact else _or_none(hi),
        "exact": exact,
        "verdict": verdict,
        "notebook": entry.get("notebook", claim.notebook),
        "status": MEASURED,
    }


def _number(stored: float | None) -> float:
    return math.nan if stored is None else float(stored)


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
