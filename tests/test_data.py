"""Committed data: the prompts, the paper's numbers, and the words about them."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

from prunelib import methods
from prunelib.errors import PrunelibError
from prunelib.paths import data_dir, project_root
from prunelib.report import paper

KINDS = [
    "question", "instruction", "explanation", "arithmetic", "code",
    "story", "dialogue", "summarise", "list", "rewrite",
]  # fmt: skip
PROMPTS = [json.loads(line) for line in (data_dir() / "prompts.jsonl").read_text().splitlines()]
SERIES = [(figure, name) for figure in paper.figures() for name in paper.series_names(figure)]

# ---------------------------------------------------------------- prompts


def test_prompts_have_the_stated_fields_and_no_others():
    for prompt in PROMPTS:
        assert list(prompt) == ["id", "kind", "text"]
        assert re.fullmatch(rf"{prompt['kind']}-\d\d", prompt["id"])
        assert prompt["text"] == prompt["text"].strip("\t ") and prompt["text"]


def test_prompts_are_enough_distinct_and_of_the_stated_length():
    assert len(PROMPTS) >= 32
    assert len({p["id"] for p in PROMPTS}) == len({p["text"] for p in PROMPTS}) == len(PROMPTS)
    words = [len(p["text"].split()) for p in PROMPTS]
    assert (min(words), max(words)) == (20, 44)


def test_no_two_prompts_share_eight_words_in_a_row():
    seen: dict[tuple, str] = {}
    for prompt in PROMPTS:
        words = re.findall(r"\w+", prompt["text"].lower())
        for i in range(len(words) - 7):
            owner = seen.setdefault(tuple(words[i : i + 8]), prompt["id"])
            assert owner == prompt["id"], f"{owner} and {prompt['id']}"


def test_any_prefix_of_the_prompts_covers_as_many_kinds_as_it_can():
    for n in range(1, len(PROMPTS) + 1):
        assert len({p["kind"] for p in PROMPTS[:n]}) == min(n, len(KINDS))
    assert [p["kind"] for p in PROMPTS] == KINDS * (len(PROMPTS) // len(KINDS))


def test_the_datasheet_names_every_kind():
    sheet = (data_dir() / "PROMPTS.md").read_text()
    assert all(f"`{kind}`" in sheet for kind in KINDS)
    assert f"{len(PROMPTS)} short English prompts" in sheet


# ---------------------------------------------------------------- the paper's numbers


@pytest.mark.parametrize("figure, name", SERIES)
def test_a_series_is_a_finite_function_of_whole_steps(figure, name):
    found = paper.series(figure, name)
    assert list(found) == ["x", "y"] and len(found) >= 10
    assert (np.diff(found["x"]) > 0).all() and np.isfinite(found["y"]).all()
    assert not (np.signbit(found["y"]) & (found["y"] == 0)).any()


@pytest.mark.parametrize("figure, name", SERIES)
def test_a_series_stays_in_the_range_of_its_quantity_up_to_stated_reading_errors(figure, name):
    _, what = paper.axes(figure)
    y = paper.series(figure, name)["y"]
    if what.startswith("cosine"):
        assert y.between(-1, 1).all()
    elif "percent" in what:
        assert y.between(0, 100).all()
    elif y.min() < 0:  # KL and 1 − cos: never negative, but read from a drawing
        assert -y.min() < 0.01 * y.max()
        assert any("reading error" in caveat for caveat in paper.caveats(figure))


def test_layer_figures_hold_means_only():
    # The bands of these two figures were digitised on another axis and are left out.
    for kind in ("attn", "mlp"):
        figure = json.loads(paper.path().read_text())["figures"][f"fig:pruning_hierarchies_{kind}"]
        assert set(figure["series"]) == {"embedding", "logit", "probability"}
        assert all(set(series) == {"x", "y", "model", "layers"} for series in figure["series"].values())
        assert any("bands" in caveat for caveat in figure["caveats"])


DEPTHS = {"Qwen-2.5-7B-Instruct": 28, "Mistral-7B": 32, None: None}


@pytest.mark.parametrize("figure, name", SERIES)
def test_a_series_says_its_model_and_depth(figure, name):
    model, layers = paper.source(figure, name)
    assert DEPTHS[model] == layers
    if "dropped" in paper.axes(figure)[0] or figure.startswith("fig:pruning_hierarchies"):
        assert model == "Qwen-2.5-7B-Instruct" and paper.series(figure, name)["x"].max() < layers


@pytest.mark.parametrize("folder", ["prunelib", "notebooks", "book"])
def test_nothing_else_says_a_model_or_depth_of_a_curve(folder):
    """The paper's models stand in data/paper; the task table of Mistral-7B is quoted on one page, with its name."""
    for file in (project_root() / folder).rglob("*"):
        if file.suffix in (".py", ".ipynb", ".md") and file.name != "index.md":
            found = re.findall(r"PAPER_LAYERS|Mistral-7B|Qwen-2\.5-7B|its 7B model", file.read_text())
            assert not found, file


def test_a_drop_curve_above_chance():
    curve = paper.kept_above_chance("fig:pruning_non_generative:MMLU", "mlp_drop")
    assert curve["x"].iloc[8] == 100 * 8 / 28 and curve["kept"].iloc[8] == pytest.approx(0.163, abs=1e-3)
    curve = paper.kept_above_chance("fig:pruning_generative:GSM8K", "mlp_drop")
    assert curve["kept"].iloc[4] == pytest.approx(35.9363 / 75.5876)


@pytest.mark.parametrize("quantity", ["one_minus_cosine", "kl"])
def test_the_statistics_follow_from_the_series(quantity):
    figure = f"fig:theory_vs_measured:{quantity}"
    both = paper.series(figure, "measured").merge(paper.series(figure, "estimated"), on="x")
    measured, estimated = both["y_x"], both["y_y"]
    stated = paper.stat("theory_vs_measured")[quantity]
    positive = (measured > 0) & (estimated > 0)
    ratio = (estimated / measured)[positive].median()
    assert np.corrcoef(measured, estimated)[0, 1] == pytest.approx(stated["pearson"], abs=6e-4)
    assert ratio == pytest.approx(stated["median_estimate_over_measured"], abs=6e-3)
    assert measured.max() == pytest.approx(stated["max_measured"], abs=6e-4)
    assert estimated.max() == pytest.approx(stated["max_estimated"], abs=6e-4)


def test_smoothed_panels_say_so():
    for figure, name in SERIES:
        rows = paper.series(figure, name)
        falls = rows["y"].iloc[1:].to_numpy() / rows["y"].iloc[:-1].replace(0, math.nan).to_numpy()
        steps = falls[(np.diff(rows["x"]) == 1) & (rows["y"].iloc[:-1] > 0.02).to_numpy()]
        if figure.startswith("fig:pruning_quant") and (np.abs(steps - 0.7) < 1e-3).sum() >= 3:
            assert any(c.startswith("Smoothed") for c in paper.caveats(figure)), figure


def test_tables():
    suite = paper.table("table:task_suite").set_index(["group", "task"])
    assert list(suite) == ["Full", "Drop-8A", "Drop-8M"]
    assert suite.loc[("generative", "GSM8K"), "Drop-8M"] == 0.0
    assert paper.table("table:case_study")["correct"].sum() == 3
    assert set(paper.tables()) >= {"table:task_suite", "table:case_study"}


def test_every_figure_names_its_axes_and_its_caveats():
    for name in paper.figures():
        assert all(paper.axes(name))
        assert paper.caveats(name)
    assert paper.caveats("theory_vs_measured") and paper.caveats("table:task_suite")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: paper.series("fig:pruning_hierarchies_atn", "logit"), "hierarchies_attn"),
        (lambda: paper.series("fig:pruning_hierarchies_attn", "logits"), "'logit'"),
        (lambda: paper.table("table:task_suit"), "table:task_suite"),
        (lambda: paper.stat("theory_vs_measure"), "theory_vs_measured"),
        (lambda: paper.caveats("nothing like it"), "no figure, table or statistic"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(call, words):
    with pytest.raises(PrunelibError, match=words):
        call()


def test_a_damaged_file_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "reported.json").write_text("{")
    monkeypatch.setattr(paper, "data_dir", lambda: tmp_path)
    with pytest.raises(PrunelibError, match="cannot read the paper's numbers"):
        paper.figures()


def test_claims_and_paper_need_no_torch():
    code = "import sys, prunelib.report.claims, prunelib.report.paper; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=project_root()).returncode == 0


# ---------------------------------------------------------------- words


def test_the_bibliography_has_the_paper_and_every_key_that_is_cited():
    root = project_root()
    keys = set(re.findall(r"^@\w+\{([^,]+),", (root / "book/references.bib").read_text(), re.M))
    texts = [f.read_text() for f in [*root.glob("book/*.md"), *root.glob("notebooks/*.ipynb")]]
    cited = {
        key.strip()
        for text in texts
        for keys_of_one in re.findall(r"\{cite(?::[tp])?\}`([^`]+)`", text)
        for key in keys_of_one.split(",")
    }
    cited |= {key for method in methods.registry().values() for key in method.source.split(",") if key}
    assert "he2026demystifying" in cited
    assert cited == keys, "cited and listed references differ"


def test_the_citation_file_agrees_with_the_project():
    import prunelib

    cff = yaml.safe_load((project_root() / "CITATION.cff").read_text())
    assert cff["version"] == prunelib.__version__
    assert cff["license"] == "Apache-2.0"
    assert "Apache License" in (project_root() / "LICENSE").read_text()
    assert "url" not in cff and "repository-code" not in cff  # none is known


def test_the_families_in_the_book_are_those_of_the_code_and_were_tried_with_the_locked_versions():
    import conftest

    from prunelib.methods import registry
    from prunelib.models.families import ARCHS

    found = json.loads((data_dir() / "families.json").read_text())
    assert set(found["families"]) == set(conftest.CONFIGS)
    assert {name.partition("-")[0] for name in found["families"]} == set(ARCHS)
    lock = (project_root() / "requirements.lock").read_text().splitlines()
    assert all(f"{name}=={version}" in lock for name, version in found["versions"].items())
    parts = {"trace", "drop", "decode", "tasks", "save"}
    for variant, works in found["families"].items():
        assert set(works) == parts | set(registry()) - {"dense"}, variant
        assert all(works[part] == "passed" for part in parts), variant
        assert "failed" not in works.values(), variant
