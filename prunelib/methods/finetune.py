"""Fine-tuning of all matrices of the blocks, with zeros and drops kept."""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.methods.base import Look
from prunelib.methods.repair import Sized

RATE = 1e-4


@dataclass(frozen=True)
class Full(Sized):
    """Fine-tune every matrix of the blocks, keeping zeros and drops.

    AdamW for some passes over the text. Gradients are 0 where a sparsified model has zeros, so that its mask stays;
    what is dropped stays dropped. Norms, embedding and unembedding are left as they are.
    """

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "fine-tuning"
    trained: ClassVar[bool] = True
    moves_blocks: ClassVar[bool] = True
    what: ClassVar[str] = "number of passes"
    usage: ClassVar[str] = "full:EPOCHS"
    example: ClassVar[str] = "drop:mlp:4+full:2"
    look: ClassVar[Look] = Look("vermillion", "P", 5)

    def repair(self, lm, made, input_ids, attention_mask=None, batch_size=8, progress=None):
        """Changes all matrices that are not dropped."""
        from prunelib.methods import distil, through

        text = distil.Text.of(lm, input_ids, attention_mask)
        dense = distil.Target.of(lm, text, batch_size)
        with made.applied(lm):
            chosen = through.open_weights(lm, range(lm.n_layers), through.zeros_of(made))
            leaves = {one.weight.name: distil.leaf(one.start) for one in chosen}

            def value(one):
                return one.masked(leaves[one.weight.name]).to(one.start.dtype)

            return through.trained(
                lm, text, dense, chosen, value, list(leaves.values()), self.size, RATE, batch_size, progress
            )
