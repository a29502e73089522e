"""A selection of sublayers as a table of plain text."""

from prunelib.report.facts import number
from prunelib.runs.selection import Selection

TITLES = {
    "cosine": "cosine of the stream before and after",
    "kl_dense_pruned": "KL(dense ‖ pruned), nats",
    "var_p": "variance of Δz under p",
    "tv": "total variation",
    "random": "random number",
}
"""What a site is chosen by, by :attr:`prunelib.methods.criterion.Criterion.column`."""


def table(found: Selection) -> str:
    """A line a site, first dropped first, with what it was chosen by; then the specification of them all.

    The numbers are those of the calibration text, exactly: what decided, not an estimate for other text.
    """
    method, about = found.method, found.calibration
    text = f", {about['sequences']} × {about['length']} tokens of {about['source']}" if about else ""
    what = TITLES[method.criterion.column]
    if method.criterion.at_output:
        what += ", with all above gone" if method.iterative else ", of it alone"
    width = max(len(site) for site, _ in found.steps())
    lines = [f"{method.label} of {found.source['name']}{text}", "", f"step  {'site':<{width}}  {what}"]
    lines += [f"{i:>4}  {site:<{width}}  {number(value)}" for i, (site, value) in enumerate(found.steps(), 1)]
    return "\n".join([*lines, "", found.spec])
