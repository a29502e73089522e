"""The chapter on options: its table against plain arithmetic, its numbers on made tables, its figures as printed."""

import random

import numpy as np
import pandas as pd
import pytest
import tiny_files
import torch
from matplotlib.text import Text
from opened import open_chapter

from prunelib.chapters import checks, load_figures
from prunelib.chapters.option_subspace import figures as drawings
from prunelib.chapters.option_subspace import measure, page
from prunelib.errors import PrunelibError
from prunelib.measure.subspace import BANDS
from prunelib.models.lm import LM
from prunelib.report import figures, panels, style
from prunelib.runs.tables import read_csv
from prunelib.runs.zoo.models import compressed_model
from prunelib.tasks import options, readouts
from prunelib.tasks.items import Item, load_items

SPECS = ["drop:attn:1", "magnitude:0.5"]
ABOUT = {"model": {"name": "tiny"}, "notebook": "12-option-subspace"}


def _items() -> list[Item]:
    draw, made = random.Random(0), []
    for n in range(6):
        texts = tuple(" ".join(draw.choice("abcdefghij") for _ in range(1 + i)) + " " + "klmn"[i] for i in range(4))
        made.append(Item(f"q{n}", f"p{n // 2}", f"x {n // 2} y", f"what {n}", texts[n % 4], (), texts, ""))
    return made


@pytest.fixture
def ch(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_files, "WORDS", [*tiny_files.WORDS, *"ABCD"])
    lm = LM.from_model(make_model("llama", max_position_embeddings=256), tiny_files.tokenizer())
    monkeypatch.setattr(measure, "items", lambda run: _items())
    monkeypatch.setattr(readouts, "demonstration", lambda seed=0: _items()[:1])
    return open_chapter(tmp_path, "12-option-subspace", lm)


@pytest.fixture
def table(ch):
    return measure.options(ch, SPECS)


def test_the_table_by_hand(ch, table):
    """Each text read alone by each model; distributions in plain float64, no function of the package."""
    assert len(table) == len(SPECS) * 6 * 2 and set(table["spec"]) == set(SPECS)
    for spec in SPECS:
        for readout in ("letter", "text"):
            rows = table[(table["spec"] == spec) & (table["readout"] == readout)].set_index("item_id")
            for item in _items():
                question = options.asked(ch.lm, item, _items()[:1], readout)
                z, texts = _read(ch, "dense", question)
                w, pruned = _read(ch, spec, question)
                p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (z, w))
                first = question.first
                a, b = (r[first] / r[first].sum() for r in (p, q))
                if readout == "text":
                    a, b = (np.exp(x) / np.exp(x).sum() for x in (texts, pruned))
                row = rows.loc[item.id]
                close = {"rel": 2e-3, "abs": 1e-7}  # float32 passes of different length
                assert row["whole_kl_dense_pruned"] == pytest.approx((p * np.log(p / q)).sum(), **close)
                assert row["options_kl_dense_pruned"] == pytest.approx((a * np.log(a / b)).sum(), **close)
                assert row["options_kl_pruned_dense"] == pytest.approx((b * np.log(b / a)).sum(), **close)
                cosine = a @ b / np.sqrt((a @ a) * (b @ b))
                assert 1 - row["options_one_minus_cos_p"] == pytest.approx(cosine, abs=1e-6)
                assert row["options_top1_same"] == (a.argmax() == b.argmax())
                assert (row["mass_dense"], row["mass_pruned"]) == pytest.approx(
                    (p[first].sum(), q[first].sum()), rel=1e-4
                )
                assert row["first_rank_dense"] == 1 + min((z > z[t]).sum() for t in first)
                assert row["last_rank_pruned"] == 1 + max((w > w[t]).sum() for t in first)
                assert row["margin_dense"] == pytest.approx(np.diff(np.sort(np.log(a)))[-1], abs=1e-4)
                assert row["correct_dense"] == (a.argmax() == item.correct)
                assert row["logp_1"] == pytest.approx(abs(np.log(q / p))[z.argmax()], abs=1e-4)
                centred = abs(w - z - (w - z).mean())
                assert row["z_options"] == pytest.approx(centred[first].mean(), abs=1e-4)
                assert list(row["p_dense"]) == pytest.approx(np.sort(p)[::-1][:10].tolist(), rel=1e-4)
                assert list(row["q_pruned"]) == pytest.approx(b.tolist(), rel=1e-4)
    parts = table[["kl_options", "kl_between", "kl_rest"]].sum(axis=1)
    np.testing.assert_allclose(parts, table["whole_kl_dense_pruned"], rtol=1e-10)


def _read(ch, spec, question):
    """Logits at the answer position and log-likelihoods of the options, one sequence at a time."""
    with torch.no_grad(), compressed_model(ch, spec).applied(ch.lm):
        texts = []
        for option in question.options:
            ids = torch.tensor([[*question.context, *option]])
            z = ch.lm.model(input_ids=ids).logits[0].double()
            after = z[len(question.context) - 1 : -1].log_softmax(-1)
            texts.append(float(after.gather(1, torch.tensor(option)[:, None]).sum()))
        return z[len(question.context) - 1].numpy(), np.array(texts)


def test_a_model_that_drops_nothing_moves_nothing(ch):
    found = measure.options(ch, ["dense"])
    moved = [c for c in found if "kl" in c or "cos" in c or c.startswith(("logp_", "z_"))]
    assert np.nanmax(np.abs(found[moved].to_numpy(dtype=float))) == 0
    assert found["whole_top1_same"].all() and found["options_top1_same"].all()
    assert (found["mass_dense"] == found["mass_pruned"]).all()
    page.record(ch, found)
    assert ch.record.part["claims"]["C11"]["verdict"] == "undecided"  # nothing moved: no ratio


def test_a_second_reading_computes_nothing(ch, table, monkeypatch):
    monkeypatch.setattr(options, "said", None)
    pd.testing.assert_frame_equal(measure.options(ch, SPECS), table)


def made(ratio=0.2, mass=0.3, flipped=0.1, passages=8) -> pd.DataFrame:
    """A table in which the numbers of the page are known; the second half of the items has the larger margins."""
    rows, count = [], 3 * passages
    for readout in ("letter", "text"):
        for spec, label in (("drop:attn:8", "Drop-8A"), ("wanda:0.5", "Wanda 50%")):
            for i in range(count):
                whole = 1 + 0.01 * i
                row = {"item_id": f"i{i}", "passage_id": f"p{i % passages}", "question": "Who? $5", "readout": readout}
                row |= {"spec": spec, "label": label, "seed": 0, "margin_dense": 0.1 * (i + 1)}
                for part, by in (("whole", 1.0), ("options", ratio), ("others", 2 * ratio)):
                    row |= {f"{part}_{name}": by * whole for name in ("kl_dense_pruned", "kl_pruned_dense")}
                    row |= {f"{part}_one_minus_cos_p": by * whole / 10, f"{part}_top1_same": True}
                row["whole_top1_same"] = bool(i % 2)
                row["options_top1_same"] = i >= flipped * count
                row |= {"kl_options": mass * ratio * whole, "kl_between": 0.1 * whole}
                row["kl_rest"] = whole - row["kl_options"] - row["kl_between"]
                for model in ("dense", "pruned"):
                    row |= {f"mass_{model}": mass, f"first_rank_{model}": 1 + i % 3, f"last_rank_{model}": 20 + i}
                    row |= {f"correct_{model}": i % 4 == 0, f"p_{model}": [0.4, 0.3, 0.1], f"q_{model}": [0.5, 0.5]}
                for name in ("logp", "z"):
                    row |= {f"{name}_{band}": 0.5 + 0.1 * n for n, band in enumerate(BANDS)} | {f"{name}_options": 0.2}
                rows.append(row | {"tokens": [" A", "\n", "$x$"], "names": [" A", " B"]})
    return pd.DataFrame(rows)


def test_values_and_the_claim_by_hand(ch):
    page.record(ch, made())
    values, claim = ch.record.part["values"], ch.record.part["claims"]["C11"]
    assert claim["value"] == pytest.approx(0.2) and claim["verdict"] == "supported"
    assert values["options.letter.control"]["value"] == pytest.approx(0.5)
    assert values["options.letter.bound"]["value"] == pytest.approx(1 / 0.3)
    assert values["options.letter.is_first"]["value"] == pytest.approx(1 / 3)
    assert values["options.letter.changed"]["value"] == pytest.approx(0.5)
    assert values["options.letter.flips"]["value"] == pytest.approx(3 / 24)
    assert values["options.letter.steadier"]["value"] == pytest.approx(0.5 - 3 / 24)
    assert values["options.letter.close_minus_clear"]["value"] == pytest.approx(3 / 12)  # all flips are close ones
    shares = [values[f"options.letter.{part}_share"]["value"] for part in ("options", "between", "rest")]
    assert shares == pytest.approx([0.06, 0.1, 0.84])
    assert values["options.chance"]["value"] == 0.5  # two names an item
    assert values["options.models"]["value"] == 2 and values["options.passages"]["value"] == 8


def test_the_claim_is_over_items_and_models(ch):
    table = made()
    far = table["spec"] == "wanda:0.5"
    table.loc[far, "options_kl_dense_pruned"] *= 100
    page.record(ch, table)
    assert ch.record.part["claims"]["C11"]["value"] == pytest.approx((0.2 + 20) / 2)


def test_one_item_is_chosen_by_rule_or_by_name():
    table = made()
    table.loc[table["spec"] == "wanda:0.5", "whole_kl_dense_pruned"] *= 3
    own = (table["spec"] == "drop:attn:8") & (table["readout"] == "letter")
    table.loc[own, "options_kl_dense_pruned"] = np.arange(24.0)[::-1] * table.loc[own, "whole_kl_dense_pruned"]
    found = page.one_item(table)
    assert set(found["spec"]) == {"drop:attn:8"} and set(found["item_id"]) == {"i12"}  # the 12th of 24 ratios
    assert len(found) == 2 * (3 + 2) and found["p"].tolist()[:3] == [0.4, 0.3, 0.1]
    assert set(page.one_item(table, "wanda:0.5", "i3")["item_id"]) == {"i3"}
    with pytest.raises(PrunelibError, match="no item 'i99'"):
        page.one_item(table, item="i99")
    with pytest.raises(PrunelibError, match="did not measure 'drop:mlp:8'"):
        page.one_item(table, "drop:mlp:8")


def test_what_cannot_be_shown_is_found_before_anything_runs():
    checks.check("option-subspace", {"shown": "drop:attn:8", "item": load_items()[0].id})
    for given, said in (
        ({"shown": "drop:attn:8,wanda:0.5"}, "shown takes one specification"),
        ({"shown": "rtn:4:g64"}, "12-option-subspace takes"),
        ({"item": "nothing"}, "there is no item 'nothing'"),
    ):
        with pytest.raises(PrunelibError, match=said):
            checks.check("option-subspace", given)


def test_flips_by_margin_and_quantiles_by_hand():
    found = page.flips(made(flipped=0.25))
    letter = found[found["readout"] == "letter"]
    assert letter["count"].sum() == 48 and letter["margin"].is_monotonic_increasing
    assert letter["flipped"].tolist() == pytest.approx([1, 1 / 5, 0, 0, 0])  # the six smallest margins of 24
    spread = page.divergences(made()).set_index(["label", "subset"])
    assert spread.loc[("Drop-8A", "whole"), "median"] == pytest.approx(1.115)
    assert spread.loc[("Drop-8A", "options"), "q95"] == pytest.approx(0.2 * (1 + 0.01 * 0.95 * 23))


DATA = {
    "fig-options-kl": page.divergences,
    "fig-options-item": page.one_item,
    "fig-options-tail": page.tail,
    "fig-options-bands": page.bands,
    "fig-options-flips": page.flips,
}


@pytest.mark.parametrize("column", [False, True], ids=["page", "column"])
@pytest.mark.parametrize("figure_id", DATA)
def test_figures_as_they_are_printed(figure_id, column, tmp_path):
    load_figures("option-subspace")
    DATA[figure_id](made()).to_csv(tmp_path / "data.csv", index=False)
    look = style.light(column)
    with style.applied(look, salt=figure_id):
        drawn = figures.spec(figure_id).function(read_csv(tmp_path / "data.csv"), look)
        panels.finish(drawn.fig)
        drawn.fig.draw_without_rendering()
    assert drawn.caption.startswith("**") and "nan" not in drawn.caption + drawn.alt
    letters = [text for text in drawn.fig.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in letters) >= style.SMALLEST
    page_box, legend = drawn.fig.bbox, drawn.fig.legends[0].get_window_extent()
    assert page_box.x0 <= legend.x0 and legend.x1 <= page_box.x1
    assert not any(legend.overlaps(axis.get_window_extent()) for axis in drawn.fig.axes)


@pytest.mark.parametrize("figure_id", DATA)
def test_cards_can_be_published(figure_id, tmp_path):
    load_figures("option-subspace")
    figures.draw(figure_id, DATA[figure_id](made()), tmp_path, ABOUT)
    assert figures.load_card(tmp_path, figure_id).readings is not None  # it holds to the schema of cards


def test_zero_divergences_are_drawn(tmp_path):
    load_figures("option-subspace")
    card = figures.draw("fig-options-kl", page.divergences(made(ratio=0.0)), tmp_path, ABOUT)
    assert "In 2 of 2" in card.caption


def test_tokens_are_shown_as_text():
    assert drawings.tidy(" A") == "␣A" and "$" not in drawings.tidy("$x$") and drawings.tidy("\n\t") == "↵U+0009"
    assert len(drawings.tidy("a" * 50)) == 14
