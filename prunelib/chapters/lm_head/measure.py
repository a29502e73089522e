"""Why the LM head shrinks the relative orthogonal perturbation (claim C5): the spectrum of its matrix."""

import numpy as np
import pandas as pd

from prunelib.measure.stats import bands
from prunelib.runs.run import Run
from prunelib.runs.zoo.traces import BATCH, batch, decoding_positions, layerwise, trace_key, trajectories

GROUPS = 4  # depth quarters in the spectrum figure


def _head(run: Run):
    from prunelib.measure.spectrum import head_spectrum

    return head_spectrum(run.lm.W)


def spectrum(run: Run) -> pd.DataFrame:
    """Singular values of the LM head: ``index`` (0 = largest), ``sigma``, and the share of the
    squared gain of each direction that is a common offset of all logits, ``offset_share``."""

    def compute() -> pd.DataFrame:
        head = _head(run)
        offset = (head.basis.T @ head.common).square() * head.vocab_size / head.sigma.square()
        columns = {"sigma": head.sigma.cpu().numpy(), "offset_share": offset.cpu().numpy()}
        return pd.DataFrame({"index": range(len(head.sigma)), **columns})

    return run.table("head_spectrum", {}, compute)


def energy_profiles(run: Run) -> pd.DataFrame:
    """Where the stream and its perturbations lie in the spectrum of the head.

    One row for each ``prompt_id, sublayer, layer, index`` with the mean over
    decoding positions of the energy share of ``h`` (``energy_h``) and of
    ``Δh⊥`` (``energy_dh``) along that singular direction.
    """
    paths = trajectories(run)
    count = run.settings.layer_positions

    def compute(rows) -> dict[str, pd.DataFrame]:
        return {"head_energy": _profile(run, rows, count)}

    groups = [paths.iloc[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    return run.tables(["head_energy"], trace_key(run, paths) | {"positions": count}, groups, compute)["head_energy"]


def _profile(run: Run, rows: pd.DataFrame, count: int) -> pd.DataFrame:
    from prunelib.measure.spectrum import energy, orthogonal_part
    from prunelib.measure.trace import sublayer_states

    head = _head(run)
    ids, mask, first = batch(run, rows)
    chosen = decoding_positions(first, ids.shape[1], count).to(ids.device)
    owner = np.repeat(np.arange(len(rows)), chosen.sum(1).cpu().numpy())
    frames = []
    for sublayer, layer, dense, pruned in sublayer_states(run.lm, ids, mask, chosen):
        shares = energy(head, dense), energy(head, orthogonal_part(dense, pruned - dense))
        for row, prompt_id in enumerate(rows["prompt_id"]):
            of_row = (x[owner == row].mean(0).cpu().numpy() for x in shares)
            columns = dict(zip(("energy_h", "energy_dh"), of_row, strict=True))
            index = {"prompt_id": prompt_id, "sublayer": sublayer, "layer": layer}
            frames.append(pd.DataFrame({**index, "index": np.arange(len(head.sigma)), **columns}))
    return pd.concat(frames, ignore_index=True)


def attenuation(run: Run) -> pd.DataFrame:
    """``(‖Δz⊥‖/‖z‖) / (‖Δh⊥‖/‖h‖)`` by layer, measured and predicted from the spectrum.

    Columns ``sublayer, layer, kind`` (measured | profile | isotropic) with
    ``median, q05, q95`` for the measured ratio over tokens. ``profile``
    predicts it from the layer's mean energy profiles alone
    (:func:`predicted_ratio`); ``isotropic`` does so for a perturbation of random
    direction. Raw lens: the linear head and nothing else.
    """
    measured = bands(ratios(run), "ratio", ["sublayer", "layer"]).assign(kind="measured")
    sigma2 = spectrum(run)["sigma"].to_numpy() ** 2
    profiles = energy_profiles(run).groupby(["sublayer", "layer", "index"], sort=True).mean(numeric_only=True)
    records = []
    for (sublayer, layer), part in profiles.groupby(["sublayer", "layer"], sort=True):
        of_h, of_dh = part["energy_h"].to_numpy(), part["energy_dh"].to_numpy()
        for kind, shares in (("profile", of_dh), ("isotropic", np.full(len(sigma2), 1 / len(sigma2)))):
            ratio = predicted_ratio(sigma2, of_h, shares)
            records.append({"sublayer": sublayer, "layer": layer, "kind": kind, "median": ratio})
    columns = ["sublayer", "layer", "kind", "median", "q05", "q95"]
    return pd.concat([measured, pd.DataFrame(records)], ignore_index=True)[columns]


def predicted_ratio(sigma2: np.ndarray, energy_h: np.ndarray, energy_dh: np.ndarray) -> float:
    """``(‖Δz⊥‖/‖z‖) / (‖Δh⊥‖/‖h‖)`` from singular values and energy shares [d] alone.

    ``g(Δh⊥)/g(h) · sin θ``, where ``θ`` is the angle between ``WΔh⊥`` and
    ``Wh``. Energies say nothing of signs, so ``⟨WΔh⊥, Wh⟩²`` is replaced by its
    mean over random signs, ``Σ σᵢ⁴ eᵢ(Δh⊥) eᵢ(h)`` in units of the two norms.
    """
    gain2_h, gain2_dh = energy_h @ sigma2, energy_dh @ sigma2
    cos2 = (sigma2**2 * energy_h) @ energy_dh / (gain2_h * gain2_dh)
    return float(np.sqrt(gain2_dh / gain2_h * max(0.0, 1 - cos2)))


def parts(run: Run) -> pd.DataFrame:
    """The measured ratio as a product, by layer: medians over tokens of ``ratio = gain × sine``.

    With Δz = WΔh and Δh = αh + Δh⊥ (raw lens), ``gain`` is g(Δh⊥)/g(h) and ``sine`` the sine of the angle between
    WΔh⊥ and Wh. Columns ``sublayer, layer, part`` (ratio | gain | sine) and bands.
    """
    rows = ratios(run)
    return pd.concat(
        [bands(rows, part, ["sublayer", "layer"]).assign(part=part) for part in ("ratio", "gain", "sine")],
        ignore_index=True,
    )


def ratios(run: Run) -> pd.DataFrame:
    """Every point with ``ratio``, ``gain`` and ``sine`` (:func:`parts`); raw lens."""
    traces = layerwise(run)
    index = ["prompt_id", "position", "sublayer", "layer"]
    z = traces.z[traces.z["lens"] == "raw"]
    rows = z.merge(traces.h[[*index, "alpha_h", "beta_h"]], on=index, validate="one_to_one")
    rows = rows[rows["beta_h"] > 0]
    # WΔh⊥ = Δz − αz: its part along z is what α of the logits has more than α of the state.
    moved = np.hypot(rows["alpha_z"] - rows["alpha_h"], rows["beta_z"])
    sine = (rows["beta_z"] / moved).fillna(1.0)
    return rows.assign(ratio=rows["beta_z"] / rows["beta_h"], gain=moved / rows["beta_h"], sine=sine)


def spectrum_profiles(run: Run) -> pd.DataFrame:
    """Cumulative energy of ``h`` and ``Δh⊥`` over the head's directions, largest gain first.

    Long table: ``vector`` (h | dh_perp | squared gain), ``depth`` (quarter of
    the layers), ``index``, ``cumulative`` share.
    """
    sigma = spectrum(run)["sigma"].to_numpy()
    profiles = energy_profiles(run)
    quarter = (profiles["layer"] * GROUPS // run.model["n_layers"]).astype(int) + 1
    means = profiles.assign(depth=quarter).groupby(["depth", "index"], sort=True).mean(numeric_only=True)
    pieces = []
    gain = pd.DataFrame({"vector": "squared gain", "depth": 0, "index": range(len(sigma))})
    pieces.append(gain.assign(cumulative=np.cumsum(sigma**2) / np.sum(sigma**2)))
    for depth, part in means.groupby("depth"):
        for vector, column in (("h", "energy_h"), ("dh_perp", "energy_dh")):
            piece = pd.DataFrame({"vector": vector, "depth": depth, "index": range(len(sigma))})
            pieces.append(piece.assign(cumulative=np.cumsum(part[column].to_numpy())))
    return pd.concat(pieces, ignore_index=True)


def centred(run: Run) -> pd.DataFrame:
    """Mean ``1 − cos z`` by layer with and without the common offset, both lenses.

    Columns ``sublayer, lens, layer, version`` (as is | centred) and bands.
    """
    z = layerwise(run).z
    pieces = []
    for version, column in (("as is", "one_minus_cos_z"), ("centred", "one_minus_cos_z_centred")):
        pieces.append(bands(z, column, ["sublayer", "lens", "layer"]).assign(version=version))
    return pd.concat(pieces, ignore_index=True)
