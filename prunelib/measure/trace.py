"""Layerwise tracing: how far removing one sublayer moves h, then z, then p.

The paper's layerwise protocol (one sublayer replaced at a time along
the dense model's own trajectory, embedding → logit → probability), for all
sites and positions at once. The tables, one row for each position, layer and
sublayer, with Δ = pruned − dense throughout:

``h``  ``one_minus_cos_h``; ``alpha_h = ⟨Δh,h⟩/‖h‖²``, ``beta_h = ‖Δh⊥‖/‖h‖``;
       ``norm_h = ‖h‖`` of the dense state.
``z``  (and ``lens``) the same for logits; ``one_minus_cos_z_centred`` after
       removing each vector's mean; ``rms_dz``, ``mean_dz``, ``norm_z``, ``mean_z``.
``p``  (and ``lens``, ``temperature``) ``one_minus_cos_p``; ``kl_dense_pruned``,
       ``kl_pruned_dense`` in nats; ``var_r``, ``var_p``, ``var_q``: variance of Δz in
       squared logit units, weighted by r ∝ p², p (dense), q (pruned), not divided by
       T²; ``range_dz = max Δz − min Δz``; ``entropy_dense``, ``pmax_dense``,
       ``top1_same``; ``resolution``: the smallest of these deviations told from rounding;
       ``norm_p`` = ‖p‖₂ of the dense distribution and ``norm_dp`` = ‖Δp‖₂.

h and uncapped z are float64, tiny deviations included; for the resolution of p
see :mod:`prunelib.measure.softmax_stats`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prunelib.errors import PrunelibError, nearest
from prunelib.measure.distances import check_temperature, cosine_from_parts, decompose
from prunelib.measure.head import LENSES, apply_lens, head_of, linear_moments, logit_statistics
from prunelib.measure.softmax_stats import pair_statistics
from prunelib.measure.stream import SUBLAYERS, layout, stream_chains

Temperatures = Iterable[float] | Mapping[str, Iterable[float]]
_Columns = dict[str, Tensor]
_CACHE_BYTES = 2**24


@dataclass(frozen=True)
class TraceTables:
    """Tidy tables of a trace; columns as in the module's description."""

    h: pd.DataFrame
    z: pd.DataFrame
    p: pd.DataFrame


def trace_layers(
    lm,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_mask: Tensor,
    sublayers: Iterable[str] = SUBLAYERS,
    layers: Iterable[int] | None = None,
    lenses: Iterable[str] = LENSES,
    temperatures: Temperatures = (1.0,),
    max_bytes: int = 2**28,
) -> TraceTables:
    """Trace every sublayer, dropped alone, at the chosen positions of a batch.

    Parameters
    ----------
    input_ids, attention_mask : [B, S] int, padded on either side
    position_mask : [B, S] bool, the positions to measure; all must be real tokens
    sublayers, layers : sites, by default all of them
    lenses : ``raw`` is z = W h, ``normed`` is z = W ln_final(h), both followed by
        the family's own scaling and softcap
    temperatures : for all lenses, or a mapping from lens to temperatures
    max_bytes : bound of the memory used beyond the model's own forward pass and the
        tables, whatever the number of positions

    Returns
    -------
    Tables with the index columns ``row`` of the batch, ``position`` in the sequence, ``layer``, ``sublayer``.

    Raises
    ------
    PrunelibError
        For unknown names, T <= 0, positions on padding, or a stream that holds NaN or Inf.

    Examples
    --------
    Every sublayer of a random model, at the last of five tokens.

    >>> import prunelib, torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    >>> lm = prunelib.LM.from_model(LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **sizes)))
    >>> ids = torch.tensor([[5, 6, 7, 8, 9]])
    >>> tables = trace_layers(lm, ids, torch.ones_like(ids), torch.arange(5)[None] == 4)
    >>> tables.h[["layer", "sublayer"]].values.tolist()
    [[0, 'attn'], [0, 'mlp'], [1, 'attn'], [1, 'mlp']]
    >>> sorted(set(tables.p["lens"]))
    ['normed', 'raw']
    """
    chosen = _temperatures(lenses, temperatures)
    plan = layout(lm, sublayers, layers)
    masks = _masks(input_ids, attention_mask, position_mask)
    found = [
        (chains.row, chains.position, _measure(lm, chains.states, plan, chosen, max_bytes // 2))
        for chains in stream_chains(lm, input_ids, *masks, plan, max_bytes // 4)
    ]
    sites = {
        "layer": np.array([layer for layer, _ in plan.sites]),
        "sublayer": np.array([sublayer for _, sublayer in plan.sites], dtype=object),
    }
    row, position = (torch.cat([part[i] for part in found]).numpy() for i in (0, 1))
    index = {
        "row": np.repeat(row, len(plan.sites)),
        "position": np.repeat(position, len(plan.sites)),
        **{name: np.tile(values, len(row)) for name, values in sites.items()},
    }
    return _tables(lm, index, [part[2] for part in found])


def compare_states(
    lm,
    h_dense: Tensor,
    h_pruned: Tensor,
    lenses: Iterable[str] = LENSES,
    temperatures: Temperatures = (1.0,),
    max_bytes: int = 2**28,
) -> TraceTables:
    """The same tables for arbitrary pairs of states [N, d], indexed by ``row`` 0 … N − 1.

    For replacements other than dropping: the stream after a sublayer, computed
    with its dense and its pruned weights.
    """
    chosen = _temperatures(lenses, temperatures)
    if h_dense.shape != h_pruned.shape or h_dense.dim() != 2 or h_dense.shape[1] != lm.d_model:
        raise PrunelibError(
            f"states must both be [N, {lm.d_model}], got {list(h_dense.shape)} and {list(h_pruned.shape)}"
        )
    states = torch.stack([h_pruned, h_dense], 1).to(lm.device)[:, None]
    with torch.no_grad():
        found = _measure(lm, states, _PAIRS, chosen, max_bytes // 2)
    return _tables(lm, {"row": np.arange(len(h_dense))}, [found])


def sublayer_states(
    lm,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_mask: Tensor,
    sublayers: Iterable[str] = SUBLAYERS,
    layers: Iterable[int] | None = None,
) -> Iterator[tuple[str, int, Tensor, Tensor]]:
    """Yield (sublayer, layer, h_dense [N, d], h_pruned [N, d]) for every site.

    N counts the chosen positions, row by row. All states are held at once.
    """
    plan = layout(lm, sublayers, layers)
    masks = _masks(input_ids, attention_mask, position_mask)
    parts = [c.states for c in stream_chains(lm, input_ids, *masks, plan, 2**62)]
    states = torch.cat(parts)
    pruned = states[:, :, plan.pruned].flatten(1, 2)
    dense = states[:, :, plan.dense].expand(*states[:, :, plan.pruned].shape).flatten(1, 2)
    for index, (layer, sublayer) in enumerate(plan.sites):
        yield sublayer, layer, dense[:, index], pruned[:, index]


@dataclass(frozen=True)
class _PairLayout:
    dense: slice
    pruned: slice


_PAIRS = _PairLayout(slice(1, 2), slice(0, 1))


def _measure(lm, states: Tensor, plan, chosen: dict[str, tuple[float, ...]], max_bytes: int):
    """All columns of some states [N, G, P, d], as flat tensors over (position, site)."""
    head = head_of(lm)
    flat = states.flatten(0, 1)
    h = _in_blocks(lambda x: _h_columns(x, plan.dense, plan.pruned), flat, max_bytes)
    h["finite"] = torch.isfinite(h["norm_h"] + h["alpha_h"] + h["beta_h"])
    z, p = {}, {}
    for lens, temperatures in chosen.items():
        x = _in_blocks(lambda h, lens=lens: {"x": apply_lens(lm, h, lens)}, flat, max_bytes)["x"]
        p[lens], moments = pair_statistics(x, head, plan.dense, plan.pruned, temperatures, max_bytes)
        if moments is None:
            moments = _in_blocks(lambda x: linear_moments(head, x, plan.dense, plan.pruned), x, max_bytes)
        z[lens] = logit_statistics(moments, head.vocab_size)
    return h, z, p


def _in_blocks(function, x: Tensor, max_bytes: int) -> _Columns:
    """``function`` of a few rows of ``x`` at a time: float64 copies stay below ``max_bytes``.

    On a CPU, below what a cache holds: ten passes over memory cost more than the work.
    """
    limit = min(max_bytes, _CACHE_BYTES) if x.device.type == "cpu" else max_bytes
    rows = max(1, limit // (8 * 8 * x[0].numel())) if len(x) else 1
    parts = [function(block) for block in x.split(rows)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _h_columns(states: Tensor, dense: slice, pruned: slice) -> _Columns:
    """``states`` [N, P, d] -> columns [N, K]."""
    before = states[:, pruned].double()
    after = states[:, dense].double().expand_as(before)
    alpha, beta = decompose(after, before - after)
    return {
        "one_minus_cos_h": cosine_from_parts(alpha, beta),
        "alpha_h": alpha,
        "beta_h": beta,
        "norm_h": torch.linalg.vector_norm(after, dim=-1),
    }


def _temperatures(lenses: Iterable[str], temperatures: Temperatures) -> dict[str, tuple]:
    """Temperatures of each lens, checked, without repetitions."""
    by_lens = {}
    for lens in lenses:
        if lens not in LENSES:
            raise PrunelibError(f"unknown lens '{lens}'{nearest(lens, LENSES)}; use raw or normed")
        some = temperatures.get(lens, ()) if isinstance(temperatures, Mapping) else temperatures
        by_lens[lens] = tuple(dict.fromkeys(check_temperature(t) for t in some))
        if not by_lens[lens]:
            raise PrunelibError(f"no temperature was given for the {lens} lens")
    if not by_lens:
        raise PrunelibError("no lens was chosen; use raw, normed or both")
    return by_lens


def _masks(input_ids: Tensor, attention_mask: Tensor, position_mask: Tensor):
    if not input_ids.shape == attention_mask.shape == position_mask.shape:
        raise PrunelibError(
            "input_ids, attention_mask and position_mask must have one shape, got "
            f"{list(input_ids.shape)}, {list(attention_mask.shape)}, {list(position_mask.shape)}"
        )
    position_mask = position_mask.bool()
    if not position_mask.any():
        raise PrunelibError("no position was chosen")
    if (position_mask & (attention_mask.to(position_mask.device) == 0)).any():
        raise PrunelibError("a chosen position is padding: choose among real tokens only")
    return attention_mask, position_mask


def _tables(lm, index: dict[str, np.ndarray], found: list) -> TraceTables:
    """Frames from the parts' columns; the only place where results leave the device."""
    h = _numpy([part[0] for part in found])
    bad = ~h.pop("finite").astype(bool)
    if bad.any():
        first = {name: values[bad][0] for name, values in index.items()}
        where = ", ".join(f"{name} {value}" for name, value in first.items())
        raise PrunelibError(f"the stream of {lm.name} holds NaN, Inf or only zeros at {where}")
    z = [pd.DataFrame({**index, "lens": lens, **_numpy([part[1][lens] for part in found])}) for lens in found[0][1]]
    p = []
    for lens, by_temperature in found[0][2].items():
        for t in by_temperature:
            columns = _numpy([part[2][lens][t] for part in found])
            p.append(pd.DataFrame({**index, "lens": lens, "temperature": t, **columns}))
    p = pd.concat(p, ignore_index=True)
    p["top1_same"] = p["top1_same"].astype(bool)
    return TraceTables(pd.DataFrame({**index, **h}), pd.concat(z, ignore_index=True), p)


def _numpy(parts: list[_Columns]) -> dict[str, np.ndarray]:
    """Columns over all parts, moved to the CPU in one piece."""
    columns = [torch.cat([part[n].reshape(-1).double() for part in parts]) for n in parts[0]]
    return dict(zip(parts[0], torch.stack(columns).cpu().numpy(), strict=True))
