"""What works in each family, told by the tests that passed: ``make families`` writes it to ``data/families.json``.

A test that takes the fixture ``lm`` or ``family`` runs once for each variant of ``conftest.CONFIGS``; those named here
stand for a column of the table in the book.
"""

import json
from importlib.metadata import version
from pathlib import Path

from prunelib.files import writing

COLUMNS = {
    "test_trace.py::test_every_family_against_plain_logits": "trace",
    "test_dropped.py::test_three_ways_to_drop_agree_to_the_bit": "drop",
    "test_dropped.py::test_cached_decoding_equals_uncached": "decode",
    "test_every_method.py::test_every_family": "{spec}",
    "test_repairs.py::test_what_a_repair_leaves_alone": "{name}",
    "test_save.py::test_pruned_weights_of_every_family": "save",
    "test_readouts.py::test_every_family_answers_the_same_alone_and_in_a_batch": "tasks",
}
PACKAGES = ("torch", "transformers")


class Recorder:
    """A pytest plugin that sees all reports, those of several processes too."""

    def __init__(self, file: Path):
        self.file, self.found = file, {}

    def pytest_runtest_logreport(self, report) -> None:
        said = dict(report.user_properties)
        if "column" not in said or (report.when != "call" and report.passed):
            return
        key = said["family"], said["column"]
        outcome = "refused" if said.get("refused") else report.outcome
        # One test that failed is a failure, one that ran makes up for others that refuse.
        rank = ("refused", "passed", "failed")
        worst = max(self.found.get(key, outcome), outcome, key=lambda one: rank.index(one) if one in rank else 2)
        self.found[key] = worst

    def pytest_sessionfinish(self) -> None:
        table = {}
        for (family, column), outcome in sorted(self.found.items()):
            table.setdefault(family, {})[column] = outcome
        versions = {name: version(name).partition("+")[0] for name in PACKAGES}  # a build's own mark is not in the lock
        with writing(self.file) as part:
            part.write_text(json.dumps({"versions": versions, "families": table}, indent=1, sort_keys=True) + "\n")


def column_of(item) -> str | None:
    """The column that a collected test stands for."""
    name = item.nodeid.partition("[")[0]
    for end, column in COLUMNS.items():
        if name.endswith(end):
            values = {k: str(v).partition(":")[0] for k, v in item.callspec.params.items()}
            return column.format(**values)
    return None
