"""Where the signal is lost: the spaces of dropped models by hand, and the figure that stands on the first page."""

import numpy as np
import pandas as pd
import pytest
import torch
from opened import SMALL, open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.dropping_layers import measure, readouts
from prunelib.measure.distances import one_minus_cosine
from prunelib.models import hooks
from prunelib.report import figures
from prunelib.runs.zoo import traces
from prunelib.runs.zoo.models import compressed_model

SPECS = ["drop:attn:1", "drop:block:1"]
ABOUT = {"model": {"name": "tiny"}, "notebook": "08-dropping-layers"}


@pytest.fixture
def ch(tiny, tmp_path, monkeypatch):
    """A chapter of a tiny Llama; two made-up continuations of different length, the shorter one padded."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 97, (n,), generator=draw).tolist() for n in (9, 12)]
    paths = pd.DataFrame({"prompt_id": ["a", "b"], "kind": "made up", "n_prompt": [5, 8], "input_ids": ids, "text": ""})
    monkeypatch.setattr(traces, "trajectories", lambda run: paths)
    return open_chapter(tmp_path, "08-dropping-layers", tiny("llama"))


def test_spaces_by_hand(ch):
    """One prompt at a time without padding: the model's own logits, and their softmax."""
    found = measure.spaces(ch, SPECS)
    paths = traces.trajectories(ch)
    for spec in SPECS:
        rows = found[found["spec"] == spec].reset_index(drop=True)
        assert len(rows) == len(paths) * SMALL.layer_positions
        expected = []
        for path in paths.itertuples():
            ids = torch.tensor([list(map(int, path.input_ids))])
            # One position a prompt: the one that writes the first token.
            dense, pruned = _read(ch, ids, path.n_prompt - 1, "dense"), _read(ch, ids, path.n_prompt - 1, spec)
            both = [(a.double(), b.double()) for a, b in zip(dense, pruned, strict=True)]
            both.append(tuple(z.softmax(-1) for z in both[1]))
            expected.append([float(one_minus_cosine(*pair)) for pair in both])
        measured = rows[[f"one_minus_cos_{space}" for space in "hzp"]].to_numpy()
        # float32 passes of different length; deviations here are 1e-3 and more.
        np.testing.assert_allclose(measured, expected, rtol=1e-3, atol=1e-6)


def _read(ch, ids, position, spec):
    last = ch.lm.n_layers - 1
    with torch.no_grad(), compressed_model(ch, spec).applied(ch.lm):
        with hooks.captured(ch.lm, ("resid_post",), [last]) as cap:
            z = ch.lm.model(input_ids=ids, use_cache=False).logits[0, position]
        return cap["resid_post"][last][0, position], z


def test_a_model_that_drops_nothing_keeps_everything(ch):
    found = measure.spaces(ch, ["dense"])
    assert (found[[f"one_minus_cos_{space}" for space in "hzp"]] == 0).all(None) and found["top1_same"].all()


def test_figure_data_has_every_read_out_of_every_model_and_their_mean(tmp_path):
    load_figures()
    spaces = pd.DataFrame(
        [
            {"prompt_id": f"p{i}", "spec": spec, "label": spec, "top1_same": True}
            | {f"one_minus_cos_{space}": by * (i + 1) for space, by in (("h", 0.01), ("z", 0.02), ("p", 0.1))}
            for spec in SPECS
            for i in range(4)
        ]
    )
    answers = pd.DataFrame(
        [
            {"item_id": f"i{i}", "passage_id": f"q{i // 3}", "chance": 0.25, "spec": spec, "label": spec, "seed": 0}
            | {"choice": float(spec != "drop:block:1" or i % 2), "forced": 1.0, "generation": float(spec == "dense")}
            for spec in ("dense", *SPECS)
            for i in range(24)
        ]
    )
    table = readouts.table(spaces, answers).set_index(["spec", "readout"])
    assert len(table) == 3 * 6
    assert table.loc[("mean", "p"), "kept"] == pytest.approx(1 - 0.1 * 2.5)  # mean of 1, 2, 3, 4 tenths
    assert table.loc[("drop:block:1", "choice"), "kept"] == pytest.approx((0.5 - 0.25) / 0.75)
    assert table.loc[("mean", "generation"), "kept"] == 0
    card = figures.draw("fig-dropping-readouts", table.reset_index(), tmp_path, ABOUT)
    assert "$p$ 0.75" in card.caption and "free generation 0%" in card.caption
