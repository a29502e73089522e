"""What is kept of skills in one token, and paired tests of each model against dense: by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from opened import SMALL, open_chapter
from scipy import stats as scipy_stats

from prunelib.chapters import load_figures
from prunelib.chapters.decoding import page as decoding
from prunelib.chapters.dropping_layers import page
from prunelib.measure.paired import paired_bootstrap
from prunelib.methods import parse
from prunelib.report import figures, scores, skills

HALF, DEAD = "drop:attn:8", "drop:block:8"
CARD = {"name": "tiny", "slug": "tiny", "n_layers": 30, "fingerprint": "f", "dtype": "float32", "device": "cpu"}
ABOUT = {"model": {"name": "tiny"}, "notebook": "08-dropping-layers"}


def one_token(spec, arithmetic, brackets, choice=None):
    """40 items a skill; ``arithmetic`` and ``brackets`` say how many of each are written freely, the first ones."""
    rows = []
    for skill, right in (("arithmetic", arithmetic), ("brackets", brackets)):
        for i in range(40):
            free = float(i < right)
            chosen = free if choice is None else float(i < choice)
            rows.append({"item_id": f"{skill}-{i}", "passage_id": f"{skill}-{i}", "type": skill, "choice": chosen,
                         "free": free, "chance": 0.25, "spec": spec, "label": parse(spec).label,
                         "seed": 0})  # fmt: skip
    return rows


def items(spec, right):
    """12 passages of three questions, the first ``right`` questions answered in every way."""
    return [
        {"item_id": f"i{i}", "passage_id": f"p{i // 3}", "chance": 0.25, "spec": spec, "label": parse(spec).label,
         "seed": 0} | dict.fromkeys(("choice", "forced", "generation"), float(i < right)) for i in range(36)
    ]  # fmt: skip


@pytest.fixture
def table():
    """Of 30 and 40 dense answers a half-dead model keeps 15 and 20; a dead one none, and it guesses options."""
    return pd.DataFrame(one_token("dense", 30, 40) + one_token(HALF, 15, 20) + one_token(DEAD, 0, 0, choice=10))


@pytest.fixture
def answers():
    return pd.DataFrame(items("dense", 32) + items(HALF, 24) + items(DEAD, 0))


@pytest.fixture
def ch(tmp_path):
    return open_chapter(tmp_path, "08-dropping-layers", card=CARD, settings=SMALL)


def test_dense_keeps_all_and_a_dead_model_nothing(table):
    for readout in skills.READOUTS:
        assert skills.kept(table, ["dense"], skills.BOTH, readout) == (1.0, 1.0, 1.0)
    for skill in (*skills.SKILLS, skills.BOTH):
        value, lo, hi = skills.kept(table, [DEAD], skill, "free")
        assert value == lo == 0 and 0 < hi < 0.2
        value, lo, hi = skills.kept(table, [DEAD], skill, "choice")
        assert value == pytest.approx(0) and lo < 0 < hi  # it guesses: 10 of 40


def test_shares_by_hand(table):
    assert skills.kept(table, [HALF], "arithmetic", "free")[0] == pytest.approx(15 / 30)
    assert skills.kept(table, [HALF], skills.BOTH, "free")[0] == pytest.approx(35 / 70)
    assert skills.kept(table, [HALF], "arithmetic", "choice")[0] == pytest.approx((15 - 10) / (30 - 10))
    assert skills.kept(table, [HALF, DEAD], "arithmetic", "free")[0] == pytest.approx(15 / 2 / 30)
    both = skills.kept(table, [HALF, DEAD], skills.BOTH, "choice")[0]
    assert both == pytest.approx(((35 + 20) / 2 - 20) / (70 - 20))


def test_order_of_rows_and_of_models_changes_nothing(table):
    shuffled = table.sample(frac=1, random_state=0)
    for readout in skills.READOUTS:
        found = skills.kept(table, [HALF, DEAD], skills.BOTH, readout)
        assert skills.kept(shuffled, [DEAD, HALF], skills.BOTH, readout) == pytest.approx(found, abs=1e-12)


def test_nothing_is_kept_of_nothing(table):
    nothing = table.assign(free=0.0)
    assert all(map(math.isnan, skills.kept(nothing, [HALF], "arithmetic", "free")))
    assert all(map(math.isnan, skills.kept(table, [], "arithmetic", "free")))
    only = table[table["type"] == "brackets"]  # the tokenizer writes no digit
    assert all(map(math.isnan, skills.kept(only, [HALF], "arithmetic", "free")))


def test_the_figure_has_each_model_and_says_the_mean(ch, table, answers, tmp_path):
    load_figures()
    data = page.one_token(ch, table, answers)
    wide = data.set_index(["label", "readout"])["kept"]
    assert wide[parse(HALF).label, "arithmetic"] == pytest.approx(0.5) and wide[parse(DEAD).label, "brackets"] == 0
    assert wide[parse(HALF).label, "generation"] == pytest.approx(24 / 32)
    assert (wide["dense"] == 1).all() and set(data.loc[data["label"] == "dense", "kind"]) == {"attn", "block"}
    assert data.loc[data["label"] == parse(HALF).label, "x"].unique() == pytest.approx(100 * 8 / 30)
    card = figures.draw("fig-skills-kept", data, tmp_path / "figures", ABOUT)
    assert "arithmetic keeps 25%" in card.caption and "longer answers keeps 38%" in card.caption
    gone = page.one_token(ch, table.assign(free=0.0), answers)
    card = figures.draw("fig-skills-kept", gone, tmp_path / "figures", ABOUT)
    assert "arithmetic keeps an undefined share" in card.caption


def test_values_and_sentence_come_from_the_numbers(ch, table, answers):
    page.one_token(ch, table, answers)
    found = ch.found
    assert found.number("skills.items") == 80 and found.number("skills.left_out") == 2 * SMALL.skill_items - 80
    assert found.number("skills.arithmetic.dense.free") == 0.75 and found.number("skills.free") == 0.25
    assert found.number("skills.minus_generation") == pytest.approx(0.25 - 24 / 2 / 32)
    low, high = found.ends("skills.minus_generation")
    (free, lo, _), (written, _, up) = (
        (found.number(key), *found.ends(key)) for key in ("skills.free", "skills.generation")
    )
    assert low == pytest.approx(free - written - math.hypot(free - lo, up - written)) and high > low
    assert "Part of both skills is lost" in found.show("said.dropping-layers.skills")


def test_the_decoding_chapter_takes_the_mean_over_pruned_models_only(tmp_path, table):
    ch = open_chapter(tmp_path, "13-decoding", card=CARD, settings=SMALL)
    quantized = pd.DataFrame(one_token("rtn:4:g64", 30, 40))
    shown = decoding.one_token(ch, pd.concat([table, quantized]))
    assert ch.found.number("decoding.skills.free") == 0.25 and ch.found.number("decoding.skills.models") == 2
    assert shown["model"].iloc[-1] == f"mean of {parse(HALF).label} and {parse(DEAD).label}"
    assert shown.set_index("model").loc[parse("rtn:4:g64").label, "arithmetic, free"].startswith("100%")
    decoding.one_token(ch, pd.concat([table[table["spec"] == "dense"], quantized]))
    assert ch.found.show("said.decoding.skills") == "This run has no pruned model to ask for one token."


# ---------------------------------------------------------------- paired tests


def test_paired_by_hand(answers):
    """24 of the dense 32 are kept: 8 lost, all in passages 8, 9 and 10; dead: 32 lost."""
    found = scores.paired(answers).set_index(["spec", "readout"])
    assert len(found) == 4 and (found["gained"] == 0).all()
    half, dead = found.loc[HALF, "generation"], found.loc[DEAD, "choice"]
    assert (half["lost"], half["p_items"], half["flipped"]) == (8, 2 / 2**8, 3)
    assert half["value"] == pytest.approx(-8 / 36)
    apart = np.r_[np.zeros(24), -np.ones(8), np.zeros(4)]
    assert half["p_passages"] == paired_bootstrap(np.zeros(36), apart, np.arange(36) // 3).p
    assert (dead["lost"], dead["p_items"]) == (32, scipy_stats.binomtest(32, 32).pvalue)


def test_a_model_that_answers_as_dense_has_no_flips(answers):
    same = answers[answers["spec"] == "dense"]
    found = scores.paired(pd.concat([same, same.assign(spec=HALF, label="same")]))
    assert (found[["lost", "gained", "flipped", "value"]] == 0).all(axis=None)
    assert (found[["p_items", "p_passages"]] == 1).all(axis=None)


def test_other_calibration_seeds_and_the_order_of_items_do_not_count(answers):
    seeds = answers[answers["spec"] == HALF].assign(seed=1, choice=0.0, generation=0.0)
    mixed = pd.concat([answers, seeds]).sample(frac=1, random_state=1)
    order = ["spec", "readout"]
    expected = scores.paired(answers).sort_values(order, ignore_index=True)
    found = scores.paired(mixed).sort_values(order, ignore_index=True)
    exact = ["spec", "lost", "gained", "p_items", "flipped"]
    pd.testing.assert_frame_equal(found[exact], expected[exact])
    pd.testing.assert_series_equal(found["value"], expected["value"])


def test_the_page_counts_where_the_tests_disagree(ch, answers):
    """Eight items lost on three passages: much by items, little by passages; one passage alone says nothing."""
    table = scores.record_paired(ch, answers, "dropping")
    assert table.columns.tolist()[:2] == ["model", "read-out"] and len(table) == 4
    assert table["McNemar p"].iloc[0] == "0.0078"
    both = scores.paired(answers)
    apart = ((both["p_items"] < 0.05) != (both["p_passages"] < 0.05)).sum()
    assert apart > 0 and ch.found.number("dropping.paired.apart") == apart
    one = answers.assign(passage_id="p")
    scores.record_paired(ch, one, "dropping")
    assert "with one passage there is no other test" in ch.found.show("said.dropping-layers.paired")
