"""Low-rank updates of the blocks' matrices (Hu et al. 2022), merged in the end."""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.methods.base import Look
from prunelib.methods.repair import Sized

RATE, EPOCHS, SCALE = 2e-3, 2, 2.0
"""Learning rate, passes over the text, and α/r."""


@dataclass(frozen=True)
class LoRA(Sized):
    """Train low-rank updates of the matrices beside what was dropped.

    Each matrix becomes W + m⊙(B·A)·α/r, with B [d_out, r] zero at first and A [r, d_in] random. Trained are the
    matrices of layers with a dropped sublayer and of their neighbours; without drops, of all layers. m is 0 where a
    sparsified model has zeros, so that they stay zeros. Hu et al. 2022 (arXiv:2106.09685).
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    trained: ClassVar[bool] = True
    moves_blocks: ClassVar[bool] = True
    usage: ClassVar[str] = "lora:R"
    example: ClassVar[str] = "drop:mlp:4+lora:8"
    source: ClassVar[str] = "hu2022lora"
    look: ClassVar[Look] = Look("vermillion", "v", 4)

    def repair(self, lm, made, input_ids, attention_mask=None, batch_size=8, progress=None):
        """Changes matrices of some blocks."""
        import torch

        from prunelib.methods import distil, through
        from prunelib.methods.cuts import beside

        text = distil.Text.of(lm, input_ids, attention_mask)
        dense = distil.Target.of(lm, text, batch_size)
        layers = beside(made.sites, lm.n_layers) if made.sites else range(lm.n_layers)
        with made.applied(lm):
            chosen = through.open_weights(lm, layers, through.zeros_of(made))
            generator, leaves = torch.Generator().manual_seed(0), {}
            for one in chosen:
                out, into = one.weight.shape
                down = torch.randn(self.size, into, generator=generator) * into**-0.5
                up = torch.zeros(out, self.size)
                leaves[one.weight.name] = [distil.leaf(part.to(one.start)) for part in (up, down)]

            def value(one):
                up, down = leaves[one.weight.name]
                return one.start + one.masked(SCALE * (up @ down)).to(one.start.dtype)

            flat = [part for pair in leaves.values() for part in pair]
            return through.trained(lm, text, dense, chosen, value, flat, EPOCHS, RATE, batch_size, progress)
