"""The options' tokens against the whole distribution, at the answer position of every item and compressed model."""

from collections.abc import Sequence

import pandas as pd

from prunelib.files import sha256
from prunelib.methods import parse_list
from prunelib.paths import data_dir
from prunelib.runs.run import Run
from prunelib.runs.zoo import scores
from prunelib.runs.zoo.models import scaled

KINDS = ("drop", "sparsify")
"""Kinds of methods that this chapter compares."""

SHOWN = 10
"""Likeliest tokens of the dense model whose probabilities are kept by name."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or the profile's ``optioned``, or its drops and sparse models."""
    given = [method.spec for method in parse_list(specs)] or scaled(run, run.settings.optioned)
    return given or [*scores.drop_specs(run), *run.settings.sparse]


def options(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Every item of the first passages, asked by letter and by text: a row an item, read-out and compressed model.

    Columns: ``item_id, passage_id, question, readout`` ("letter" or "text"), ``spec, label, seed``;

    - ``whole_*`` (the vocabulary at the answer position), ``options_*`` (the letters' tokens among themselves; the
      log-likelihoods of whole option texts) and ``others_*`` (as many of the likeliest other tokens; letters only):
      ``one_minus_cos_p, kl_dense_pruned, kl_pruned_dense`` (nats) and ``top1_same``, all by measure.subspace.compare;
    - ``kl_options, kl_between, kl_rest``: what ``whole_kl_dense_pruned`` consists of (measure.subspace.kl_split), of
      the letters' tokens or of the tokens that the option texts begin with;
    - of the same tokens ``mass_dense, mass_pruned`` and the ranks, from 1, of the likeliest and of the least likely:
      ``first_rank_*``, ``last_rank_*``;
    - ``margin_dense`` (nats, of the dense model's option over the second), ``correct_dense, correct_pruned``;
    - ``logp_<band>`` and ``z_<band>``: mean movement by rank band of the dense distribution, and ``logp_options``,
      ``z_options`` of those tokens (measure.subspace.movement);
    - lists: ``tokens, p_dense, p_pruned`` of the dense model's likeliest tokens, ``names, q_dense, q_pruned`` of the
      options, renormalised.
    """
    from prunelib.tasks.options import READOUTS, asked, said
    from prunelib.tasks.readouts import demonstration

    files = [data_dir() / "tasks" / name for name in ("passages.jsonl", "demonstration.jsonl")]
    key = {"items": [sha256(file) for file in files], "passages": run.settings.option_passages}
    known: dict = {}

    def read(readout: str):
        return said(run.lm, known["items"], known[readout])

    def ask(_spec: str) -> dict:
        if not known:
            known["items"] = items(run)
            shown = demonstration(run.seed)
            known.update({name: [asked(run.lm, item, shown, name) for item in known["items"]] for name in READOUTS})
        return {name: read(name) for name in READOUTS}

    def compared(pruned: dict) -> pd.DataFrame:
        if "dense" not in known:
            known["dense"] = {name: read(name) for name in READOUTS}
        rows = [
            row
            for name in READOUTS
            for row in _rows(run.lm, known["items"], known[name], known["dense"][name], pruned[name], name)
        ]
        return pd.DataFrame(rows)

    return scores.each_model(run, "options", [(spec, run.seed) for spec in specs], lambda _spec: key, ask, compared)


def items(run: Run) -> list:
    """The items of this chapter: those of the run's first passages."""
    found = scores.items(run)
    passages = list(dict.fromkeys(item.passage_id for item in found))[: run.settings.option_passages]
    return [item for item in found if item.passage_id in passages]


def _rows(lm, items, questions, dense, pruned, readout: str) -> list[dict]:
    """One item after another, so that no more than one pair of logits is held in float64."""
    import torch

    rows = []
    for i, (item, question) in enumerate(zip(items, questions, strict=True)):
        if i % _TOGETHER == 0:  # the head is read from memory once for all of them
            with torch.inference_mode():
                logits = [lm.logits(said.states[i : i + _TOGETHER]) for said in (dense, pruned)]
        z, w = (one[i % _TOGETHER].double().cpu() for one in logits)
        own = [torch.tensor(said.loglikelihoods[i], dtype=torch.float64) for said in (dense, pruned)]
        about = {"item_id": item.id, "passage_id": item.passage_id, "question": item.question, "readout": readout}
        row = compare_item(z, w, torch.tensor(question.first), own if readout == "text" else None)
        names = item.options if readout == "text" else [lm.decode([one[0]]) for one in question.options]
        row["correct_dense"], row["correct_pruned"] = (row.pop(f"choice_{m}") == item.correct for m in _MODELS)
        tokens = [lm.decode([token]) for token in row.pop("ids")]
        rows.append(about | row | {"tokens": tokens, "names": list(names)})
    return rows


_MODELS = ("dense", "pruned")
_TOGETHER = 32  # items whose logits are computed at a time


def compare_item(z, w, ids, texts=None) -> dict:
    """One item's numbers, from dense logits ``z`` [V], pruned ones ``w`` [V] and the options' tokens ``ids`` [K].

    ``texts`` are the dense and pruned log-likelihoods [K'] of whole options, where those decide and not the tokens.
    Gives the columns of :func:`options` that name no item, but ``ids`` for the dense model's likeliest tokens and
    ``choice_dense``, ``choice_pruned`` for the places of the chosen options.
    """
    import torch

    from prunelib.measure import subspace

    own = texts or [subspace.restricted(one, ids) for one in (z, w)]
    parts = {"whole": subspace.compare(z, w), "options": subspace.compare(*own)}
    if texts is None:
        others = subspace.likeliest_others(z, ids, len(ids))
        parts["others"] = subspace.compare(*(subspace.restricted(one, others) for one in (z, w)))
    row = {f"{part}_{name}": number.item() for part, found in parts.items() for name, number in found.items()}
    row |= {f"kl_{name}": number.item() for name, number in subspace.kl_split(z, w, ids).items()}
    top = z.topk(min(SHOWN, len(z))).indices
    for model, logits, weights in zip(_MODELS, (z, w), own, strict=True):
        ranks = subspace.ranks(logits, ids)
        row |= {
            f"mass_{model}": subspace.mass(logits, ids).item(),
            f"first_rank_{model}": ranks.min().item(),
            f"last_rank_{model}": ranks.max().item(),
            f"choice_{model}": weights.argmax().item(),
            f"p_{model}": logits.log_softmax(-1)[top].exp().tolist(),
            f"q_{model}": weights.softmax(-1).tolist(),
        }
    row |= {"margin_dense": subspace.margin(own[0]).item() if len(own[0]) > 1 else float("nan"), "ids": top.tolist()}
    moved = torch.stack(subspace.movement(z, w))
    found = subspace.by_band(z, moved) | {"options": moved[:, ids].mean(-1)}
    row |= {f"{name}_{band}": means[k].item() for band, means in found.items() for k, name in enumerate(("logp", "z"))}
    return row
