"""One temperature for the logits, folded into the final norm (Guo et al. 2017, on a compressed model)."""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.errors import PrunelibError
from prunelib.methods.base import Look
from prunelib.methods.repair import Bare, check_norm

STEPS, LIMIT = 8, 16.0
"""Newton steps at most, and the largest factor by which logits are scaled up or down."""

MOST = 512
"""Tokens that are read at most: there is one number to find."""


@dataclass(frozen=True)
class Temperature(Bare):
    """Divide the logits by the one temperature of least KL to the dense model.

    KL is convex in 1/T, with derivative E_q[z] − E_p[z] and second derivative Var_q(z), so that Newton's method finds
    its minimum over the first :data:`MOST` tokens. The final norm takes 1/T over (and the bias of the unembedding,
    where there is one).
    Guo et al. 2017, "On Calibration of Modern Neural Networks", there against labels.
    """

    name: ClassVar[str] = "temperature"
    title: ClassVar[str] = "temperature"
    usage: ClassVar[str] = "temperature"
    example: ClassVar[str] = "drop:mlp:4+temperature"
    source: ClassVar[str] = "guo2017calibration"
    look: ClassVar[Look] = Look("sky", "o", 0)

    def check_model(self, lm) -> None:
        if lm.arch.softcap and getattr(lm.config, lm.arch.softcap, None) is not None:
            raise PrunelibError(f"temperature cannot be folded into {lm.name}: a softcap stands behind its logits")
        check_norm(lm, self.name)

    def repair(self, lm, made, input_ids, attention_mask=None, batch_size=8, progress=None):
        """Changes the final norm, and the bias of the unembedding where there is one."""
        import torch

        from prunelib.methods import distil
        from prunelib.methods.apply import Repaired

        text = distil.Text.of(lm, input_ids, attention_mask)
        dense, rows, passes = distil.Target.of(lm, text, batch_size), list(text.learned), 0
        kept = text.kept(rows)
        x = dense.x[rows][kept][:MOST]
        with made.applied(lm), torch.no_grad():
            own = lm.ln_final(distil.last_states(lm, text, batch_size))[rows][kept][:MOST]
            factor, best, least = 1.0, 1.0, float("inf")
            for passes in range(1, STEPS + 1):
                kl, slope, bend = _derivatives(lm, dense, x, own, factor)
                if kl < least:
                    best, least = factor, kl
                if progress:
                    progress(passes, STEPS)
                step = slope / bend if bend > 0 else 0.0
                ahead = min(max(factor - step, factor / 2, 1 / LIMIT), factor * 2, LIMIT)
                if kl > least:  # beyond the minimum: halfway back
                    ahead = (factor + best) / 2
                if abs(ahead - factor) < 1e-4 * factor:
                    break
                factor = ahead
            values = scaled_norm(lm, best)
        return Repaired(values, trained=1, tokens=passes * len(x))


def _derivatives(lm, dense, x, own, factor: float) -> tuple[float, float, float]:
    """Mean KL and its two derivatives in the factor of the logits, in float64, at dense and own states [N, d]."""
    import torch

    sums = torch.zeros(3, dtype=torch.float64)
    for some, p, negative_entropy in dense.blocks(x):
        z = lm.logits(own[some])
        log_q = torch.log_softmax(factor * z, -1)
        q = log_q.exp()
        mean = (q * z).sum(-1)
        sums[0] += ((p * log_q).sum(-1).neg() + negative_entropy).sum().cpu().double()
        sums[1] += (mean - (p * z).sum(-1)).sum().cpu().double()
        sums[2] += (q * (z - mean[:, None]).square()).sum().cpu().double()
    return tuple((sums / len(x)).tolist())


def scaled_norm(lm, factor: float) -> dict:
    """New values of the final norm, and of the unembedding's bias: all logits become ``factor`` times as large."""
    from prunelib.methods.weights import now, others

    arch, values = lm.arch, {}
    for name, value in now(lm, others(lm)).items():
        if name == f"{arch.ln_final}.weight":
            values[name] = (arch.norm_offset + value) * factor - arch.norm_offset
        elif name in (f"{arch.ln_final}.bias", f"{arch.unembed}.bias"):
            values[name] = value * factor
    return values
