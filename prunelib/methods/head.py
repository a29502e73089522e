"""The final norm and a low-rank correction of the unembedding, fitted to the dense model's distributions."""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.methods.base import Look
from prunelib.methods.repair import Sized

RATE, NORM_RATE, EPOCHS = 1e-3, 0.002, 2
"""Learning rates of the correction, and of the norm as a share of its weight's RMS; passes over the text."""


@dataclass(frozen=True)
class Head(Sized):
    """Train the final norm and a low-rank correction of the unembedding.

    W becomes W + B·A with B [V, r] and A [r, d], on cached states of the compressed model, whose blocks stay as they
    are. Where the unembedding is tied to the embedding, the head gets a matrix of its own, and the embedding stays.
    """

    name: ClassVar[str] = "head"
    title: ClassVar[str] = "head"
    trained: ClassVar[bool] = True
    usage: ClassVar[str] = "head:R"
    example: ClassVar[str] = "drop:mlp:4+head:16"
    look: ClassVar[Look] = Look("purple", "^", 2)

    def repair(self, lm, made, input_ids, attention_mask=None, batch_size=8, progress=None):
        """Changes the final norm and the unembedding."""
        import torch

        from prunelib.methods import distil
        from prunelib.methods.apply import Repaired
        from prunelib.methods.weights import head_name

        text = distil.Text.of(lm, input_ids, attention_mask)
        dense = distil.Target.of(lm, text, batch_size)
        with made.applied(lm):
            states = distil.Cached.of(lm, text, dense, batch_size)
            norm = states.norm()
            weight, bias = lm.W.detach(), lm.unembed_bias
            wide = torch.promote_types(weight.dtype, torch.float32)
            down = torch.randn(self.size, lm.d_model, generator=torch.Generator().manual_seed(0), dtype=wide)
            down = distil.leaf((down * lm.d_model**-0.5).to(lm.device))
            up = distil.leaf(torch.zeros(lm.vocab_size, self.size, dtype=wide, device=lm.device))

            def logits(h):
                x = states.normed(norm, h)
                z = torch.nn.functional.linear(x, weight, bias).float()
                return lm.scale_logits(z + (x.to(wide) @ down.T @ up.T).float())

            groups = [([down, up], RATE)]
            if norm:  # not every family's final norm has weights
                scale = float(norm[f"{lm.arch.ln_final}.weight"].detach().square().mean().sqrt())
                groups.insert(0, (list(norm.values()), NORM_RATE * scale))
            found = distil.train(
                groups,
                lambda rows: states.learn(logits, rows),
                lambda: states.kl(logits, text.held_out),
                text,
                EPOCHS,
                progress=progress,
            )
            with torch.no_grad():
                values = {name: value.detach() for name, value in norm.items()}
                values[head_name(lm)] = weight + (up @ down).to(weight.dtype)
        return Repaired(values, sum(one.numel() for some, _ in groups for one in some), found.tokens, found.curve)
