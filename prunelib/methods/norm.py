"""The final norm's own scale (and shift) fitted to the dense model's distributions."""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.methods.base import Look
from prunelib.methods.repair import Bare, check_norm

RATE, EPOCHS, HALVINGS = 0.002, 1, 6
"""Learning rate as a share of the weight's RMS, passes over the text, and shorter steps that are tried at the end."""


@dataclass(frozen=True)
class Norm(Bare):
    """Fit the final norm's scale of each channel to the dense model.

    KL is convex in the scale and shift of the final norm, since logits are linear in them (but for a softcap). Gradient
    steps find a point; of the way there as much is gone as does not raise KL on the text that was learned from.
    """

    name: ClassVar[str] = "norm"
    title: ClassVar[str] = "final norm"
    usage: ClassVar[str] = "norm"
    example: ClassVar[str] = "drop:mlp:4+norm"
    look: ClassVar[Look] = Look("sky", "s", 1)

    def check_model(self, lm) -> None:
        check_norm(lm, self.name)

    def repair(self, lm, made, input_ids, attention_mask=None, batch_size=8, progress=None):
        """Changes the parameters of the final norm."""
        from prunelib.methods import distil
        from prunelib.methods.apply import Repaired

        text = distil.Text.of(lm, input_ids, attention_mask)
        dense = distil.Target.of(lm, text, batch_size)
        with made.applied(lm):
            states = distil.Cached.of(lm, text, dense, batch_size)
            leaves = states.norm()
            before = {name: value.detach().clone() for name, value in leaves.items()}

            def logits(values):
                return lambda h: lm.logits(states.normed(values, h))

            rate = RATE * float(before[f"{lm.arch.ln_final}.weight"].square().mean().sqrt())
            found = distil.train(
                [(list(leaves.values()), rate)],
                lambda rows: states.learn(logits(leaves), rows),
                lambda: states.kl(logits(leaves), text.held_out),
                text,
                EPOCHS,
                progress=progress,
            )
            start, values = states.kl(logits(before), text.learned), before
            for share in (2.0**-i for i in range(HALVINGS)):
                some = {name: before[name] + share * (leaves[name].detach() - before[name]) for name in before}
                if states.kl(logits(some), text.learned) <= start:
                    values = some
                    break
        return Repaired(values, sum(value.numel() for value in values.values()), found.tokens, found.curve)
