"""Runs side by side: claims and curves of made-up runs, one of another depth, as table, JSON, folder and book page."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakebook import make

from prunelib import cli
from prunelib.errors import PrunelibError
from prunelib.files import read_json, write_json
from prunelib.paths import data_dir
from prunelib.report import beside_page, figures, paper, publish, side_by_side, style
from prunelib.report.side_by_side import PAPER

REFERENCE = data_dir() / "reference" / "smollm2-135m-instruct"


def made(folder: Path, name="tiny/llama", layers=4, shift=0.0, claim=1.2, beside="") -> Path:
    """A run of a model of ``layers`` layers; ``shift`` moves its curves, ``claim`` is the number of C1."""
    manifest = {
        "schema": 1,
        "model": {"name": name, "slug": "tiny", "n_layers": layers},
        "profile": "smoke",
        "parameters": {"05-layerwise": {"model": name, "profile": "smoke", "beside": beside}},
        "notebooks": {}, "tables": {}, "figures": {}, "values": {},
        "claims": {
            "C1": {"value": claim, "lo": claim - 0.1, "hi": claim + 0.1, "exact": False},
            "C8": {"parts": {"choice kept": {"value": 0.8, "lo": 0.7, "hi": 0.9, "exact": False},
                             "generation kept": {"value": 0.2, "lo": 0.1, "hi": None, "exact": False}}},
        },
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    layers_of = [(space, lens, layer) for space in "hzp" for lens in ("raw", "normed") for layer in range(layers)]
    rows = [("this model", *one, 0.9 + shift, 0.8, 0.95, part) for one in layers_of for part in ("layer", "middle")]
    bands = pd.DataFrame(rows, columns=["source", "space", "lens", "layer", "mean", "mean_lo", "mean_hi", "part"])
    for sublayer in ("attn", "mlp"):
        _write(bands, folder, f"fig-layerwise-{sublayer}")
    rows = [(source, kind, 100 * count / layers, readout, 1 - count / layers + shift, 0.1, 0.9)
            for source in ("this run", "paper") for kind in ("attn", "mlp", "block")
            for readout in ("choice", "forced", "generation") for count in (0, 1, 2)]  # fmt: skip
    _write(
        pd.DataFrame(rows, columns=["source", "kind", "x", "readout", "kept", "lo", "hi"]), folder, "fig-dropping-kept"
    )
    return folder


def _write(rows: pd.DataFrame, folder: Path, name: str) -> None:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "figures" / f"{name}.csv", index=False)


@pytest.fixture
def three(tmp_path):
    """A model, the same after compressing, and one of another architecture and depth."""
    return [
        made(tmp_path / "a"),
        made(tmp_path / "b", shift=-0.3, claim=3.0),
        made(tmp_path / "c", name="tiny/qwen2", layers=6, shift=-0.1, claim=2.05),
    ]


# ---------------------------------------------------------------- which runs


def test_runs_are_called_after_model_and_profile_and_told_apart(three):
    names = [run.name for run in side_by_side.read([*three, three[0]])]
    assert names == ["tiny/llama, smoke, a (1)", "tiny/llama, smoke, b (2)", "tiny/qwen2, smoke"]


def test_what_is_no_run_is_one_line(tmp_path, three):
    with pytest.raises(PrunelibError, match="no run in .*nothing"):
        side_by_side.read([three[0], tmp_path / "nothing"])
    write_json(tmp_path / "d" / "manifest.json", {"schema": 1})
    with pytest.raises(PrunelibError, match="is not a manifest of a run"):
        side_by_side.read([tmp_path / "d"])


# ---------------------------------------------------------------- claims


def test_verdicts_are_judged_run_by_run(three):
    rows = side_by_side.by_claim(side_by_side.read(three))
    own = rows[(rows["claim"] == "C1")].set_index("run")["verdict"]
    assert own.tolist() == ["supported", "not supported", "undecided"]
    parts = rows[(rows["claim"] == "C8") & (rows["run"] == "tiny/qwen2, smoke")].set_index("part")["verdict"]
    assert parts.to_dict() == {"": "undecided", "choice kept": "supported", "generation kept": "undecided"}
    assert set(rows.loc[rows["claim"] == "C3", "verdict"]) == {"not run"}
    table = side_by_side.wide(rows)
    assert table.loc[0].tolist()[2:] == [
        "supported, 1.20 (1.10–1.30)", "not supported, 3.00 (2.90–3.10)", "undecided, 2.05 (1.95–2.15)"]  # fmt: skip


def test_a_changed_number_changes_its_cell_alone(three):
    before = side_by_side.wide(side_by_side.by_claim(side_by_side.read(three)))
    made(three[1], shift=-0.3, claim=1.0)
    after = side_by_side.wide(side_by_side.by_claim(side_by_side.read(three)))
    assert (before != after).sum().sum() == 1 and after.iloc[0, 3].startswith("supported, 1.00")


# ---------------------------------------------------------------- curves


def test_layers_lie_on_the_same_relative_depth(three):
    curves = side_by_side.layer_curves(side_by_side.read(three))
    for run, rows in curves.groupby("run"):
        for _, line in rows.groupby(["sublayer", "space"]):
            assert (line["depth"].min(), line["depth"].max()) == (0, 1)
            if run != PAPER:
                assert len(line) == (6 if "qwen2" in run else 4) and line["lo"].notna().all()
    theirs = curves[(curves["run"] == PAPER) & (curves["sublayer"] == "mlp") & (curves["space"] == "z")]
    series = paper.series("fig:pruning_hierarchies_mlp", "logit")
    assert theirs["mean"].tolist() == series["y"].tolist() and theirs["lo"].isna().all()


def test_drops_lie_on_the_share_of_layers(three):
    curves = side_by_side.drop_curves(side_by_side.read(three))
    own = curves[(curves["run"] == "tiny/qwen2, smoke") & (curves["kind"] == "mlp") & (curves["readout"] == "choice")]
    assert own["x"].tolist() == pytest.approx([0, 100 / 6, 200 / 6])
    assert set(curves["readout"]) == {"choice", "generation"}
    assert curves.loc[curves["run"] == PAPER, "x"].max() <= 50  # as far as these runs drop


def test_a_run_without_a_chapter_or_with_an_older_one_has_no_curve(three):
    (three[0] / "figures" / "fig-layerwise-attn.csv").unlink()
    rows = pd.read_csv(three[1] / "figures" / "fig-dropping-kept.csv").assign(chance=0.25)
    _write(rows, three[1], "fig-dropping-kept")
    _write(pd.DataFrame({"source": ["this run"]}), three[2], "fig-dropping-kept")
    runs = side_by_side.read(three)
    attn = side_by_side.layer_curves(runs).query("sublayer == 'attn'")
    assert set(attn["run"]) == {"tiny/llama, smoke, b (2)", "tiny/qwen2, smoke", PAPER}
    assert set(side_by_side.drop_curves(runs)["run"]) == {"tiny/llama, smoke, a (1)", PAPER}
    only = side_by_side.drop_curves(side_by_side.read(three[2:]))
    assert set(only["run"]) == {PAPER} and only["x"].max() > 40


def test_the_committed_reference_is_a_run():
    runs = side_by_side.read([REFERENCE])
    assert runs[0].layers == 30 and len(side_by_side.layer_curves(runs).query("run != 'paper'")) == 2 * 3 * 30


def test_figures_are_drawn_of_any_number_of_runs(three, tmp_path):
    for some in (three[:1], three, three * 3):
        cards = beside_page.drawn(side_by_side.read(some), tmp_path / f"drawn{len(some)}")
        assert all("nan" not in (card.caption + card.alt).lower() for card in cards)
    assert cards[0].caption.startswith("**Mean cosine of $p$") and "tiny/qwen2, smoke 0.80" in cards[0].caption


def test_more_runs_than_hues_still_look_different():
    from prunelib.report import beside_figures

    looks = [tuple(map(str, beside_figures.look(style.light(), i).values())) for i in range(20)]
    assert len(set(looks)) == 20


# ---------------------------------------------------------------- where it goes


def test_the_command_prints_writes_and_refuses(three, tmp_path, capsys):
    runs = [str(folder) for folder in three]
    assert cli.main(["compare", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "claim" and lines[1].startswith("C1") and "undecided, 2.05" in lines[1]
    assert cli.main(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["layers"] for run in found["runs"]] == [4, 4, 6] and len(found["claims"]) > 3 * 16
    out = tmp_path / "out"
    assert cli.main(["compare", *runs, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    names = {file.name for file in out.iterdir()}
    assert {"index.html", "claims.csv", "comparison.json", "fig-beside-layers.csv", "fig-beside-dropped.pdf"} <= names
    page = (out / "index.html").read_text()
    assert all((out / link).is_file() for link in re.findall(r'(?:href|src)="([^"]+)"', page))
    assert cli.main(["compare", runs[0], "--out", str(out)]) == 0  # ours is replaced
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("mine")
    capsys.readouterr()
    assert cli.main(["compare", *runs, "--out", str(tmp_path / "theirs")]) == 2
    assert cli.main(["compare", str(tmp_path / "none")]) == 2 and cli.main(["compare"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith("prunelib: ") for line in said)
    assert (tmp_path / "theirs" / "letter.txt").read_text() == "mine"


def test_what_comes_from_a_run_is_text_and_never_markup(tmp_path):
    made(tmp_path / "x", name="<script>alert(1)</script> $x_$ **b**")
    runs = side_by_side.read([tmp_path / "x"])
    out = beside_page.write(runs, tmp_path / "out")
    assert "<script" not in out.read_text() and "&lt;script&gt;" in out.read_text()


def test_damaged_data_of_a_figure_is_one_line(three, capsys):
    (three[0] / "figures" / "fig-dropping-kept.csv").write_bytes(b'a,"\x00\n"1,2,3\n\xff')
    assert cli.main(["compare", str(three[0]), "--json"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_numbers_that_are_words_are_left_out(three):
    rows = pd.read_csv(three[0] / "figures" / "fig-dropping-kept.csv").astype({"kept": object})
    rows["kept"] = "much"
    _write(rows, three[0], "fig-dropping-kept")
    assert np.isnan(side_by_side.drop_curves(side_by_side.read(three[:1])).query("run != 'paper'")["kept"]).all()


# ---------------------------------------------------------------- the book's page


def test_the_book_shows_the_runs_beside_its_own(three, tmp_path):
    root, run = make(tmp_path / "book")
    for name in ("beside", "objections", "reading"):
        (root / "book" / f"{name}.md").write_text(f"# About {name}\n\n```{{{_DIRECTIVES[name]}}}\n```\n")
    toc = (root / "_toc.yml").read_text()
    (root / "_toc.yml").write_text(toc + "".join(f"      - file: book/{name}\n" for name in _DIRECTIVES))
    manifest = read_json(run / "manifest.json")
    named = {"01-demo": {"beside": f"{three[1]},{three[2]},{tmp_path / 'gone'}"}}
    write_json(run / "manifest.json", manifest | {"parameters": named})
    site = publish.build(run, tmp_path / "site", root).parent
    page = (site / "book" / "beside.html").read_text()
    text = re.sub("<[^>]+>", "", page)
    assert "tiny/qwen2, smoke" in text and "undecided, 2.05" in text and "of the runs beside it" in text
    assert "figures/fig-beside-layers.light.svg" in page and (site / "figures" / "fig-beside-dropped.csv").is_file()
    assert read_json(site / "comparison.json")["gone"] == 1
    doubted = re.sub("<[^>]+>", "", (site / "book" / "objections.html").read_text())
    assert "12. Attention was run without its cache" in doubted and "prunelib run 05 --model" in doubted
    work = tmp_path / "_build" / "tiny-smoke" / "beside" / "fig-beside-layers.pdf"
    before = work.stat().st_mtime_ns
    publish.build(run, tmp_path / "site", root)
    assert work.stat().st_mtime_ns == before  # drawn once


_DIRECTIVES = {"beside": "runs-beside", "objections": "objections", "reading": "figure-index"}


def test_without_a_name_the_committed_reference_stands_beside(tmp_path):
    folders, gone = beside_page.others({"model": {"name": "m", "slug": "m"}, "profile": "quick", "parameters": {}})
    assert folders == [REFERENCE] and gone == 0
    own = {"model": {"name": "m", "slug": REFERENCE.name}, "profile": "full", "parameters": {}}
    assert beside_page.others(own) == ([], 0)


def test_the_figures_of_a_comparison_are_no_chapter_s(three, tmp_path):
    card = beside_page.drawn(side_by_side.read(three[:1]), tmp_path)[0]
    assert figures.spec(card.id).chapter == "beside" and card.notebook == "00-beside"
