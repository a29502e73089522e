"""Figure files: deterministic, drawn from the CSV alone, and aware of their origin."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from prunelib.errors import PrunelibError
from prunelib.report import cite, figures, provenance, style
from prunelib.runs.tables import read_csv

RECORD = {"model": {"name": "a_b/ü", "fingerprint": "f" * 64}, "notebook": "07-demo", "seed": 3}
DATA = pd.DataFrame({"x": [0.1, 1 / 3, 1e-17], "y": [1.0, 2.0, float("nan")], "name": ["None", "NA", "raw"]})


@pytest.fixture
def registry(monkeypatch):
    """An empty registry with one figure that keeps what it was given."""
    monkeypatch.setattr(figures, "FIGURES", {})
    seen = []

    @figures.figure(id="fig-x", title="100 % of $a_b$ & more", chapter="demo")
    def draw_x(data, look):
        seen.append((data, look))
        fig, axes = look.subplots(height=2)
        axes.scatter(data["x"], data["y"], color=look.colours.blue, rasterized=True)
        axes.hexbin([0, 1, 2], [0, 1, 2], mincnt=1, gridsize=5)
        axes.set_xlabel("layer")
        return figures.Drawn(fig, "**Up to 2.**\n How   to read.", "Three\npoints.")

    return seen


@pytest.fixture
def card(registry, tmp_path):
    return figures.draw("fig-x", DATA, tmp_path / "one", RECORD)


def test_all_files_are_written_and_nothing_else(card):
    names = {file.name for file in card.folder.iterdir()}
    assert names == {f"fig-x{suffix}" for suffix in figures.SUFFIXES}


def test_same_data_and_record_give_the_same_bytes(card, tmp_path):
    again = figures.draw("fig-x", read_csv(card.file(".csv")), tmp_path / "two", RECORD)
    for suffix in figures.SUFFIXES:
        assert again.file(suffix).read_bytes() == card.file(suffix).read_bytes(), suffix


def test_other_process_with_other_settings_gives_the_same_bytes(card, tmp_path):
    script = f"""
import matplotlib
matplotlib.rcParams.update({{"font.size": 20, "axes.grid": False, "savefig.dpi": 50}})
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import fakebook
from prunelib.report import figures
figures.draw("fig-demo", fakebook.DATA, {str(tmp_path / "theirs")!r}, {RECORD!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    figures.FIGURES.clear()
    sys.modules.pop("fakebook", None)
    import fakebook

    figures.draw("fig-demo", fakebook.DATA, tmp_path / "ours", RECORD)
    for suffix in figures.SUFFIXES:
        ours, theirs = (tmp_path / who / f"fig-demo{suffix}" for who in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes(), suffix


def test_the_function_sees_the_csv(card, registry):
    for data, _ in registry:
        pd.testing.assert_frame_equal(data, DATA)  # to the last bit, with "None" and "NA" as text
    forms = {(look.dark, look.column) for _, look in registry}
    assert len(registry) == 4 and forms == {(False, False), (True, False), (False, True), (True, True)}


@pytest.mark.parametrize("suffix", [s for s in figures.SUFFIXES if s.endswith((".svg", ".pdf", ".png"))])
def test_provenance_round_trip(card, suffix):
    record = provenance.read_provenance(card.file(suffix))
    assert record == card.provenance
    assert record.items() >= RECORD.items()
    assert (record["figure"], record["number"]) == ("fig-x", "7.1")


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_file_of_another_program_has_no_provenance(tmp_path, suffix):
    file = tmp_path / f"other.{suffix}"
    matplotlib.figure.Figure().savefig(file)
    with pytest.raises(PrunelibError, match="no prunelib provenance"):
        provenance.read_provenance(file)
    file.write_bytes(b"%PDF-nonsense")
    with pytest.raises(PrunelibError, match="not a readable"):
        provenance.read_provenance(file)


def test_provenance_of_nothing(tmp_path):
    with pytest.raises(PrunelibError, match="no file"):
        provenance.read_provenance(tmp_path / "a.svg")
    with pytest.raises(PrunelibError, match="SVG, PDF and PNG"):
        provenance.read_provenance(tmp_path / "a.gif")


def test_card_is_read_back_and_shows_itself(card):
    again = figures.load_card(card.folder, "fig-x")
    assert again == card
    assert again.caption == "**Up to 2.** How to read." and again.alt == "Three points."
    assert again._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(PrunelibError, match="did you mean 'fig-x'"):
        figures.load_card(card.folder, "fig-y")


def test_png_is_sharp(card):
    from PIL import Image

    with Image.open(card.file(".png")) as image:
        assert image.size == (1350, 400) and min(image.info["dpi"]) > 199


def test_no_date_in_any_file(card):
    assert b"CreationDate" not in card.file(".pdf").read_bytes()
    assert b"<dc:date>" not in card.file(".light.svg").read_bytes()


def test_numbers_follow_the_registry(registry):
    for name in ("fig-b", "fig-c"):
        figures.figure(name, name, "demo")(lambda data, look: None)
    figures.figure("fig-d", "d", "other")(lambda data, look: None)
    numbers = [spec.number(f"07-{spec.chapter}") for spec in figures.FIGURES.values()]
    assert numbers == ["7.1", "7.2", "7.3", "7.1"]


def test_two_figures_of_one_name_are_refused(registry):
    with pytest.raises(ValueError, match="two figures"):
        figures.figure("fig-x", "x", "demo")(test_no_date_in_any_file)
    with pytest.raises(PrunelibError, match="did you mean 'fig-x'"):
        figures.spec("fig-xx")


def test_unwritable_folder_is_one_line(registry, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunelibError, match="cannot write"):
        figures.draw("fig-x", DATA, tmp_path / "file", RECORD)


RELEASE = {"authors": ["Doe, Ann", "{The group}"], "version": "1.2", "year": "2026", "url": None, "licence": "MIT"}


def test_bibtex(card, monkeypatch):
    monkeypatch.setattr(cite, "release", lambda: RELEASE)
    entry = figures.bibtex(card)
    assert entry.startswith("@misc{prunelib-fig-x,\n  author = {Doe, Ann and {The group}},\n")
    assert r"title = {{Figure 7.1: 100 \% of $a_b$ \& more}}" in entry
    assert r"howpublished = {prunelib, file \texttt{figures/fig-x.pdf}}" in entry and "year = {2026}" in entry
    assert "version = {1.2}" in entry and "license = {CC BY 4.0 (figure), MIT (code)}" in entry
    assert r"model a\_b/ü, weights ffffffffffff, seed 3, notebook 07-demo" in entry
    assert "url" not in entry and "arXiv" not in entry
    monkeypatch.setattr(cite, "release", lambda: RELEASE | {"url": "https://example.org/x_y"})
    assert "url = {https://example.org/x_y}" in figures.bibtex(card)


def test_a_figure_with_the_papers_numbers_names_the_paper(registry, tmp_path):
    shown = {who: DATA.assign(source=["this run", "this run", who]) for who in ("paper", "this run")}
    entries = {who: figures.bibtex(figures.draw("fig-x", data, tmp_path / who, RECORD)) for who, data in shown.items()}
    paper = cite.paper()
    said = f"With numbers of He et al. (2026), {paper['title']}, arXiv:{paper['arxiv']}"
    assert paper["arxiv"] == "2603.24652" and said in entries["paper"] and "With numbers" not in entries["this run"]


def test_files_carry_the_licence(card):
    from defusedxml import ElementTree
    from PIL import Image

    rights = next(ElementTree.parse(card.file(".light.svg")).iter("{http://purl.org/dc/elements/1.1/}rights"))
    with Image.open(card.file(".png")) as image:
        said = ["".join(rights.itertext()).strip(), image.info["Copyright"]]
    assert said == ["CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"] * 2


def test_settings_do_not_leak(card):
    before = dict(matplotlib.rcParams)
    with style.applied(style.dark(), "salt"):
        assert matplotlib.rcParams["svg.hashsalt"] == "salt"
    assert dict(matplotlib.rcParams) == before


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [style.light(), style.dark()], ids=["light", "dark"])
def test_contrast_with_the_page(look):
    assert all(_contrast(colour, look.page) >= 3 for colour in look.colours)
    assert _contrast(look.foreground, look.page) >= 7 and _contrast(look.muted, look.page) >= 4.5


def test_page_colours_are_those_of_the_style_sheet():
    from prunelib import paths

    sheet = (paths.project_root() / "book" / "_static" / "prunelib.css").read_text()
    for theme, colour in (("light", style.LIGHT_PAGE), ("dark", style.DARK_PAGE)):
        assert f'html[data-theme="{theme}"] {{ --pst-color-background: {colour}; }}' in sheet


def test_type_is_readable_in_print():
    with style.applied(style.light(), "x"):
        names = ("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
        assert min(matplotlib.rcParams[name] for name in names) >= 8


def test_figures_need_no_torch():
    code = "import sys, prunelib.report.figures, prunelib.report.publish; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_registered_figure_has_a_title_and_an_id():
    for name, spec in figures.FIGURES.items():
        assert name == spec.id and name.startswith("fig-") and spec.title


def test_card_json_is_plain(card):
    fields = json.loads(card.file(".json").read_text())
    assert fields["id"] == "fig-x" and "folder" not in fields
