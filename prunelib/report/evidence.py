"""What stands behind a verdict besides its number: sample, figure, the paper's number, cost, and the command."""

from collections.abc import Mapping

from prunelib.report import paper_claims
from prunelib.report.facts import number
from prunelib.runs.commands import command

NOTHING_REPORTED = "no number in its tables or curves"


def of(claim: str, figure: str, notebook: str | None, manifest: Mapping) -> dict:
    """``sample, evidence, paper, cost, command`` of a claim's row in the ledger, safe for JSON.

    ``sample`` lists ``count, of``: first what the interval is taken over. ``evidence`` is the address in the site of
    the ``figure`` that shows the number. ``paper`` lists ``part, value, what, source`` (report/paper_claims.py).
    ``cost`` has ``minutes`` and ``memory_gib`` of the ``notebook`` that decides, as it was computed and not read again;
    what other chapters had computed before it is not in there. Empty or None is what the manifest does not tell.
    """
    entry, cost = manifest.get("claims", {}).get(claim, {}), None
    spent = manifest.get("notebooks", {}).get(notebook, {}).get("cost", {})
    if spent.get("seconds") is not None:
        cost = {"minutes": round(spent["seconds"] / 60, 2), "memory_gib": spent.get("memory_gib")}
    return {
        "sample": [{"count": one["count"], "of": one["of"]} for one in entry.get("sample", [])],
        "evidence": f"figures/{figure}.light.svg" if figure in manifest.get("figures", {}) else None,
        "paper": [one._asdict() for one in paper_claims.reported(claim)],
        "cost": cost,
        "command": command(notebook, manifest) if notebook and manifest.get("model", {}).get("name") else None,
    }


def sample_words(row: Mapping) -> str:
    """``"12 passages, 36 items"``; the interval is taken over the first."""
    return ", ".join(f"{one['count']:,} {one['of']}" for one in row["sample"]) or "not recorded"


def paper_words(row: Mapping) -> str:
    """The paper's numbers in words, or that it has none."""
    said = (
        f"{one['part']}{': ' if one['part'] else ''}{number(one['value'])} ({one['what']}; {one['source']})"
        for one in row["paper"]
    )
    return "; ".join(said) or NOTHING_REPORTED


def cost_words(row: Mapping) -> str:
    """``"3.2 minutes, 1.4 GiB"``, as far as the run knows."""
    if not row["cost"]:
        return "not recorded"
    minutes, memory = row["cost"]["minutes"], row["cost"]["memory_gib"]
    return f"{number(minutes, '.2g')} minutes" + (f", {number(memory, '.2g')} GiB" if memory is not None else "")
