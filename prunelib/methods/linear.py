"""One least-squares linear map at each cut, in closed form (ReplaceMe, Shopkhoev et al. 2025)."""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.errors import PrunelibError
from prunelib.methods.base import Look
from prunelib.methods.repair import Bare

RIDGES = tuple(10.0**-i for i in range(7))
"""Tried ε, as shares of the mean of the diagonal of AᵀA."""


@dataclass(frozen=True)
class Linear(Bare):
    """Make up for each cut by a linear map behind the last sublayer before it.

    A cut is a run of dropped sublayers. With the outputs A [tokens, d] of the last kept sublayer before it, and Δ
    [tokens, d] what the stream of the pruned model lacks behind the cut, M solves (AᵀA + εI) M = AᵀΔ. The sublayer's
    output projection becomes (I + M)ᵀW, its bias likewise, and the stream gains AM. Cuts are repaired from front to
    end, each in the model that those before it left. ε is chosen on held-out rows, no map at all among the choices,
    and M is then fitted to all rows. Shopkhoev et al. 2025 (arXiv:2505.02819), where the sublayer is always an MLP;
    here it is whichever stands before the cut. A cut with nothing kept before it stays as it is.
    """

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "linear map"
    keeps_zeros: ClassVar[bool] = False
    moves_blocks: ClassVar[bool] = True
    needs_drops: ClassVar[bool] = True
    usage: ClassVar[str] = "linear"
    example: ClassVar[str] = "drop:mlp:4+linear"
    source: ClassVar[str] = "shopkhoev2025replaceme,chen2025linearpatch"
    look: ClassVar[Look] = Look("sky", "D", 3)

    def check_model(self, lm) -> None:
        if lm.arch.attn_post or lm.arch.mlp_post:
            raise PrunelibError(
                f"linear cannot be folded into {lm.name}: a norm stands between its output projections and the stream"
            )

    def repair(self, lm, made, input_ids, attention_mask=None, batch_size=8, progress=None):
        """Changes output projections. Raises PrunelibError where nothing is kept before any cut."""
        from prunelib.methods import distil
        from prunelib.methods.apply import NewWeights, Repaired
        from prunelib.methods.cuts import cuts

        found = cuts(made.sites, lm.n_layers, lm.arch.is_parallel)
        if not found:
            raise PrunelibError(f"linear repairs nothing in {made.spec}: no sublayer is kept before what is dropped")
        text, values, trained = distil.Text.of(lm, input_ids, attention_mask), {}, 0
        targets = list(_streams(lm, text, found, batch_size))
        for number, (cut, target) in enumerate(zip(found, targets, strict=True)):
            with made.applied(lm), NewWeights(values).applied(lm):
                outputs, stream = _streams(lm, text, [cut], batch_size, cut.before)
                m = _solved(*_sums(text, target, outputs, stream))
                values |= _folded(lm, cut.before, m)
            trained += m.numel()
            if progress:
                progress(number + 1, len(found))
        return Repaired(values, trained, len(found) * text.count(range(len(text.ids))))


def _streams(lm, text, cuts, batch_size: int, before=None):
    """The streams behind some cuts, each [n, S, d]; first of all the output of the sublayer ``before``, if given."""
    import torch

    from prunelib.methods import distil
    from prunelib.models import hooks

    layers = sorted({cut.last.layer for cut in cuts} | ({before.layer} if before else set()))
    out = f"{before.kind}_out" if before else "attn_out"
    points = {"resid_pre", "attn_out", "resid_post", out}
    found: list[list] = []
    with torch.no_grad():
        for rows in distil.batches(range(len(text.ids)), batch_size):
            with hooks.stop_after(lm, layers[-1]), hooks.captured(lm, points, layers) as seen:
                lm.model(**text.inputs(rows))
            own = [seen[out][before.layer]] if before else []
            for cut in cuts:
                layer, inside = cut.last.layer, cut.last.kind == "attn"  # the MLP of that block is kept and reads it
                at = seen["resid_pre"][layer] + seen["attn_out"][layer] if inside else seen["resid_post"][layer]
                own.append(at)
            found.append(own)
    return map(torch.cat, zip(*found, strict=True))


def _sums(text, target, outputs, stream):
    """(AᵀA, AᵀΔ, ‖Δ‖²) in float64 over the rows to learn from, and over the held-out ones."""
    found = []
    for rows in (text.learned, text.held_out):
        kept = text.kept(rows)
        a = outputs[list(rows)][kept].cpu().double()  # not every device has float64
        missing = target[list(rows)][kept].cpu().double() - stream[list(rows)][kept].cpu().double()
        found.append((a.T @ a, a.T @ missing, missing.square().sum()))
    return found


def _solved(learned, held):
    """M [d, d] of the ridge that is best on held-out rows, fitted to all rows; zeros where no map is better."""
    import torch

    def solve(gram, cross, ridge):
        size = gram.diagonal().mean() * ridge
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.solve(gram + size * eye, cross)

    def error(m):
        return held[2] - 2 * (m * held[1]).sum() + (m * (held[0] @ m)).sum()

    if not learned[0].diagonal().mean() > 0:
        return torch.zeros_like(learned[0])
    tried = {ridge: error(solve(*learned[:2], ridge)).item() for ridge in RIDGES}
    best = min(tried, key=tried.get)
    if not tried[best] < held[2].item():
        return torch.zeros_like(learned[0])
    return solve(learned[0] + held[0], learned[1] + held[1], best)


def _folded(lm, site, m) -> dict:
    """New values of the output projection of a kept sublayer, whose output then gains ``output @ m``."""
    from prunelib.methods.weights import output_biases, output_weights

    def moved(value):
        return (value.cpu().double() + value.cpu().double() @ m).to(value)

    found = {weight.name: weight.resting(moved(weight.get().T).T) for weight in output_weights(lm, site)}
    return found | {name: moved(slot.value().detach()) for name, slot in output_biases(lm, site).items()}
