"""Repaired models of a run: what each repair took, how its training went, how far its model is from the dense one."""

from collections.abc import Sequence

import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.files import key_hash
from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import (
    ANSWERS,
    Given,
    calibration,
    compressed_model,
    held_samples,
    training,
    training_text,
)
from prunelib.runs.zoo.one_step import passages
from prunelib.runs.zoo.scores import each_model


def repaired_specs(run: Run, bases: Sequence[str], rungs: Sequence[str]) -> dict[str, list[str]]:
    """Each of ``bases`` with its repairs by ``rungs``, those that it can have: a specification that cannot be parsed,
    or not be folded into weights of the run's model, is left out."""
    found: dict[str, list[str]] = {}
    fits = set(_fitting(run, rungs))
    for base in bases:
        found[base] = []
        for rung in rungs:
            try:
                spec = parse(f"{base}{JOIN}{rung}").spec
            except PrunelibError:
                continue
            found[base] += [spec] if rung in fits else []
    return found


def _fitting(run: Run, rungs: Sequence[str]) -> list[str]:
    """Rungs that the run's model can take (``Repair.check_model``), kept as a table."""

    def compute() -> pd.DataFrame:
        return pd.DataFrame({"rung": list(rungs), "fits": [_fits(run.lm, rung) for rung in rungs]})

    name = f"repairs_that_fit_{key_hash({'rungs': list(rungs)})[:8]}"
    table = run.table(name, {"rungs": list(rungs)}, compute)
    return table.loc[table["fits"], "rung"].tolist()


def _fits(lm, rung: str) -> bool:
    parts = [part for part in parse(f"sites:mlp:0{JOIN}{rung}").parts if part.kind == "recover"]
    try:
        for part in parts:
            part.check_model(lm)
    except PrunelibError:
        return False
    return True


def fits(run: Run, spec: str) -> bool:
    """Whether the run's model can take all repairs of a specification."""
    rungs = [part.spec for part in getattr(parse(spec), "parts", ()) if part.kind == "recover"]
    return all(_fitting(run, [rung]) for rung in rungs)


def kl_to_dense(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """KL(dense ‖ pruned) of next tokens on held-out samples of the dense model: a row a model and sequence.

    ``sequence, kl`` (nats a token, mean over its positions); ``spec, label, seed``.
    """
    from prunelib.methods import distil

    dense: list = []

    def text():
        ids = held_samples(run)
        return distil.Text(ids.to(run.lm.device), _ones(ids).to(run.lm.device), len(ids))

    def states(_spec: str):
        import torch

        with torch.no_grad():
            found = run.lm.ln_final(distil.last_states(run.lm, text(), 8))
            head = run.lm.W.detach().clone()  # a repair may have changed it
        return found, head, run.lm.unembed_bias

    def compared(pruned) -> pd.DataFrame:
        import torch

        if not dense:
            dense.append(distil.Target.of(run.lm, text(), 8))
        own, head, bias = pruned
        own = own.flatten(0, 1)

        def logits(some):
            return run.lm.scale_logits(torch.nn.functional.linear(own[some], head, bias).float())

        found = dense[0].kl(dense[0].x.flatten(0, 1), logits).view(dense[0].x.shape[:2]).mean(-1)
        return pd.DataFrame({"sequence": range(len(found)), "kl": found.double().cpu().numpy()})

    settings = run.settings
    key = {"held": [settings.texts, settings.calibration_tokens]}
    return each_model(run, "kl_to_dense", [(spec, run.seed) for spec in specs], lambda _spec: key, states, compared)


def _ones(ids):
    import torch

    return torch.ones_like(ids)


def histories(run: Run, specs: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the repairs of each of ``specs`` took, and how the training of the last one went.

    The first has ``spec, label, trained`` (numbers that were fitted), ``tokens`` (read, each time they were), summed
    over its repairs; the second ``spec, label`` and the columns of ``Repaired.curve``.
    """

    from prunelib.methods.apply import CURVE

    def ask(spec: str) -> pd.DataFrame:
        made = compressed_model(run, spec)
        about = {"trained": sum(one.trained for one in made.repairs), "tokens": sum(one.tokens for one in made.repairs)}
        curve = made.repairs[-1].curve.reset_index(drop=True)
        return pd.concat([pd.DataFrame([about | {"row": -1}]), curve.assign(row=range(len(curve)))], ignore_index=True)

    def compute(spec: str) -> dict[str, pd.DataFrame]:
        return {"repairs": ask(spec).assign(spec=spec, label=parse(spec).label)}

    settings = run.settings
    key = {"specs": list(specs), "training": settings.training_key, "calibration": settings.calibration_key}
    table = run.tables(("repairs",), key, list(specs), compute)["repairs"]
    about = table[table["row"] < 0].astype({"trained": int, "tokens": int})
    curves = table[table["row"] >= 0].astype({"tokens": int})
    return about[["spec", "label", "trained", "tokens"]], curves[["spec", "label", *CURVE]]


# ---------------------------------------------------------------- calibration text, own and given


def equal_texts(run: Run) -> list[Given]:
    """As many tokens of the dense model's own samples, of passages that no item asks about, and of its answers.

    Rows of ``calibration_tokens``, at most ``calibration`` of them and at most what the passages give; of the answers,
    rows of ``training_tokens`` that make no more tokens. Those are the ones that repairs learn from, and are left out
    where there are too few.
    """
    length, chosen, rows = run.settings.calibration_tokens, passages(), equal_rows(run)

    def given(run: Run):
        import torch

        ids = _passage_tokens(run)
        return torch.tensor(ids[: rows * length]).view(rows, length)

    def own(run: Run):
        return calibration(run)[:rows]

    def answers(run: Run):
        return training(run)[answered_places(run)[:answered]]

    answered = rows * length // run.settings.training_tokens
    about = Given("answers", ("answers", answered, *run.settings.training_key, run.seed), answers)
    return [
        Given("own", ("own", rows, *run.settings.calibration_key, run.seed), own),
        Given("given", ("given", rows, length, *(name for name, _ in chosen)), given),
        *([about] if 2 <= answered <= len(answered_places(run)) else []),
    ]


def answered_places(run: Run) -> list[int]:
    """The rows of what repairs learn from that are answers of the dense model."""
    text = training_text(run).drop_duplicates("sequence")
    return text.loc[text["source"] == ANSWERS, "sequence"].tolist()


def _passage_tokens(run: Run) -> list[int]:
    return [i for _, text in passages() for i in run.lm.encode_one(text, chat=False)]


def equal_rows(run: Run) -> int:
    """Rows of the two texts of :func:`equal_texts`. The passages' tokens are a table: no model is loaded to plan."""

    def compute() -> pd.DataFrame:
        return pd.DataFrame({"tokens": [len(_passage_tokens(run))]})

    found = run.table("given_tokens", {"passages": [list(one) for one in passages()]}, compute)
    return min(run.settings.calibration, int(found["tokens"].iloc[0]) // run.settings.calibration_tokens)


def is_whole(run: Run) -> bool:
    """Whether the own samples of :func:`equal_texts` are all of the run's calibration text."""
    return equal_rows(run) == run.settings.calibration
