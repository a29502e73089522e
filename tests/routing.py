"""What the experts of a mixture read, worked out by hand."""

import torch
from torch.nn import functional as F


def expert_reads(lm, layer, tokens):
    """What the matrices of each expert read, from the tokens in front of the experts and what the router says."""
    experts, seen = lm.experts(layer), {}
    handle = experts.module.register_forward_pre_hook(lambda _, args: seen.setdefault("args", args))
    with torch.no_grad():
        lm.model(input_ids=tokens, use_cache=False)
    handle.remove()
    hidden, found = seen["args"][0], {}
    for expert in range(len(experts)):
        if len(seen["args"]) == 1:
            x = hidden.view(len(experts), -1, lm.d_model)[expert]
            x = x[x.abs().sum(1) > 0]
        else:
            x = hidden[[expert in row for row in seen["args"][1].tolist()]]
        gate_up = experts.module.gate_up_proj[expert]
        both = x @ (gate_up if experts.layout.transposed else gate_up.T)
        if lm.arch.family == "gpt_oss":
            both = both + experts.module.gate_up_proj_bias[expert]
            gate, up = both[:, ::2].clamp(max=7), both[:, 1::2].clamp(-7, 7)
            inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        else:
            gate, up = both.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        found[expert] = x, inner
    return found
