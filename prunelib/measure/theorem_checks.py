"""Theorems 1 to 3 without a model: remainders, worst cases, random draws, failures.

Every function takes ``theorem`` ("T1", "T2" or "T3") and returns a small tidy
table. The size of a perturbation is ε = ‖Δh‖/‖h‖ for T1 and R = (max Δz − min
Δz)/T for T2 and T3; both are free of units. The column ``quantity`` tells apart
what a theorem is read for:

- T1: ``paper`` (estimate β²/2) and ``refined`` (estimate γ²/2, γ = β/(1+α));
- T2: ``cos_p``;
- T3: ``kl_dense_pruned`` and ``kl_pruned_dense``.
"""

import numpy as np
import pandas as pd
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import theory

QUANTITIES = {
    "T1": ("paper", "refined"),
    "T2": ("cos_p",),
    "T3": ("kl_dense_pruned", "kl_pruned_dense"),
}
TOLERANCE = 1e-9
"""Rounding allowed in float64, relative to the value; far above what was seen (1e-13)."""

_SMALL = 1e-2  # slopes are fitted below this size, where the leading term rules


def quantities(theorem: str) -> tuple[str, ...]:
    """The names in :data:`QUANTITIES`, or PrunelibError for an unknown theorem."""
    if theorem not in QUANTITIES:
        raise PrunelibError(f"theorem must be one of {', '.join(QUANTITIES)}, not {theorem!r}")
    return QUANTITIES[theorem]


def evaluate(theorem: str, quantity: str, base, change, temperature=1.0) -> theory.Bound:
    """The theorem's :class:`Bound` for states ``base`` moved by ``change`` (``[..., n]`` each)."""
    if theorem == "T1":
        bound = theory.cosine_theorem(base, change)
        return bound if quantity == "paper" else bound._replace(estimate=_refined(base, change))
    if theorem == "T2":
        return theory.softmax_theorem(base, change, temperature)
    return theory.kl_theorem(base, change, temperature, quantity.removeprefix("kl_"))


def _refined(h, dh):
    """γ²/2: the estimate of Theorem 1 with the (1+α) factor kept."""
    alpha = (h * dh).sum(-1) / h.square().sum(-1)
    return theory.cosine_theorem(h, dh).estimate / (1 + alpha).square()


def _size(theorem: str, base, change):
    if theorem == "T1":
        return change.norm(dim=-1) / base.norm(dim=-1)
    return change.amax(-1) - change.amin(-1)


def _resize(theorem: str, base, change, size):
    """``change`` scaled to ``size`` (broadcast over leading axes)."""
    return change * (size / _size(theorem, base, change))[..., None]


# ------------------------------------------------------------------ remainders


def directions(theorem: str, seed: int, n: int = 200) -> dict[str, tuple]:
    """Named ``(base, change)`` pairs of ``n`` entries: ordinary, heavy-tailed and extreme ones."""
    rng = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(n, generator=rng, dtype=torch.float64)

    if theorem == "T1":
        h = normal()
        return {
            "random direction": (h, normal() + 0.3 * h),
            "heavy-tailed": (h, normal() ** 3),
            "mostly along h": (h, 0.2 * normal() - h),
        }
    # A skewed Δz: a symmetric one has hardly any third-order term to look at.
    skewed = torch.expm1(normal())
    peaked = 2 * normal()
    peaked[0] = peaked.max() + 6  # one token holds nearly all the probability
    return {
        "flat p": (torch.zeros(n, dtype=torch.float64), skewed),
        "gaussian logits": (2 * normal(), skewed),
        "peaked p": (peaked, normal()),
    }


def remainder(theorem: str, seed: int = 0, points: int = 25) -> pd.DataFrame:
    """``|exact − estimate|`` against the size of the perturbation, along fixed directions.

    Columns ``quantity, case, size, value, upper``; ``upper`` is the most that
    the proven interval allows the remainder to be.
    """
    sizes = torch.logspace(-4, 0, points, dtype=torch.float64)[:-1]
    frames = []
    for quantity in quantities(theorem):
        for case, (base, change) in directions(theorem, seed).items():
            bound = evaluate(theorem, quantity, base, _resize(theorem, base, change, sizes))
            gap = (bound.exact - bound.estimate).abs()
            allowed = torch.maximum((bound.upper - bound.estimate).abs(), (bound.estimate - bound.lower).abs())
            columns = {"size": sizes, "value": gap, "upper": allowed}
            frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
            frames.append(frame.assign(quantity=quantity, case=case))
    return pd.concat(frames, ignore_index=True)


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Log-log slope of each remainder curve, ``quantity, case, slope``, fitted at small sizes.

    Values that rounding may have touched are left out (below 1e-15).
    """
    rows = rows[(rows["size"] <= _SMALL) & (rows["value"] > 1e-15)]
    records = []
    for (quantity, case), curve in rows.groupby(["quantity", "case"], sort=False):
        slope = np.polyfit(np.log(curve["size"]), np.log(curve["value"]), 1)[0]
        records.append({"quantity": quantity, "case": case, "slope": float(slope)})
    return pd.DataFrame.from_records(records)


# ------------------------------------------------------------------ worst cases


def envelope(theorem: str, quantity: str, size) -> tuple[np.ndarray, np.ndarray]:
    """Proven ``(lowest, highest)`` exact/estimate ratio over all perturbations of this size.

    ``size`` is ε < 1 for T1, R > 0 for T2 and T3; proofs in the notebooks.
    """
    size = np.asarray(size, dtype=np.float64)
    if quantity == "paper":
        return (1 + size) ** -2, (1 - size) ** -2
    if quantity == "refined":
        cosine = np.sqrt(1 - size**2)
        return 2 * cosine**2 / (1 + cosine), np.ones_like(size)
    if theorem == "T2":
        return (np.expm1(-size) / size) ** 2, (np.expm1(size) / size) ** 2
    kernel = [2 * theory.log_kernel(torch.as_tensor(s * size)).exp().numpy() for s in (-1, 1)]
    return kernel[0], kernel[1]


def search_sizes(theorem: str) -> np.ndarray:
    """The perturbation sizes at which the worst case is looked for."""
    if theorem == "T1":
        return np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    return np.array([0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0])


def adversarial(theorem: str, seed: int = 0, budget: int = 4, n: int = 4) -> pd.DataFrame:
    """The extreme exact/estimate ratios that a search finds, beside the proven ones.

    Gradient ascent (Adam through the theorem itself) on base state and
    perturbation with the size held fixed, ``4 × budget`` random restarts for
    each size. Columns ``quantity, case`` (largest | smallest), ``size, value,
    lower, upper, violations`` (points of the whole search outside the
    theorem's interval: must be 0).
    """
    sizes = torch.as_tensor(search_sizes(theorem))
    frames = []
    for quantity in quantities(theorem):
        low, high = envelope(theorem, quantity, sizes.numpy())
        for case, sign in (("largest", 1.0), ("smallest", -1.0)):
            value, violations = _ascend(theorem, quantity, sizes, sign, seed, 4 * budget, n)
            frame = pd.DataFrame({"size": sizes.numpy(), "value": value, "lower": low})
            frame = frame.assign(upper=high, violations=violations, quantity=quantity, case=case)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _ascend(theorem, quantity, sizes, sign, seed, restarts, n, steps=300):
    rng = torch.Generator().manual_seed(seed)
    shape = (len(sizes), restarts, n)
    base = 3 * torch.randn(shape, generator=rng, dtype=torch.float64)
    change = torch.randn(shape, generator=rng, dtype=torch.float64)
    base.requires_grad_(), change.requires_grad_()
    optimiser = torch.optim.Adam([base, change], lr=0.1)
    best, violations = np.full(len(sizes), -np.inf), np.zeros(len(sizes), dtype=int)
    for _ in range(steps):
        optimiser.zero_grad()
        bound = evaluate(theorem, quantity, base, _resize(theorem, base, change, sizes[:, None]))
        goal = sign * (bound.exact.log() - bound.estimate.log())
        # Below 1e-250 the ratio of two nearly underflown numbers means nothing.
        usable = torch.isfinite(goal) & (torch.minimum(bound.exact, bound.estimate) > 1e-250)
        kept = torch.where(usable, goal, -torch.inf).detach().amax(1).numpy()
        best = np.maximum(best, kept)
        violations += outside_interval(bound).sum(1).numpy()
        torch.where(usable, goal, 0.0).sum().neg().backward()
        for parameter in (base, change):
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimiser.step()
    return np.exp(sign * best), violations


def outside_interval(bound: theory.Bound):
    """Which points break ``lower <= exact <= upper`` by more than :data:`TOLERANCE`."""
    slack = TOLERANCE * bound.exact.abs() + 1e-300
    return (bound.exact < bound.lower - slack) | (bound.exact > bound.upper + slack)


# ------------------------------------------------------------------ random draws


def random_draws(theorem: str, seed: int = 0, draws: int = 20_000) -> pd.DataFrame:
    """Random states and perturbations of many sizes and shapes: how many leave the interval?

    Dimensions 2 to 300; sizes log-uniform from 1e-9 to 1 (T1) or 1e-9 to 100
    (T2, T3). Columns ``quantity, dimension, draws, violations``.
    """
    rng = torch.Generator().manual_seed(seed)
    dimensions = (2, 3, 10, 50, 300)
    many = -(-draws // len(dimensions))

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def loguniform(low, high):
        return 10 ** (low + (high - low) * torch.rand(many, generator=rng, dtype=torch.float64))

    records = []
    # Both estimates of T1 belong to one interval.
    for quantity in quantities(theorem)[: 1 if theorem == "T1" else None]:
        for dimension in dimensions:
            power = torch.randint(1, 4, (many, 1), generator=rng)  # 3: heavy-tailed
            base = normal(many, dimension) * loguniform(-1, 1.5)[:, None]
            change = normal(many, dimension) ** power
            # T1 needs α > −1, which ε < 1 guarantees.
            size = loguniform(-9, -1e-6) if theorem == "T1" else loguniform(-9, 2)
            bound = evaluate(theorem, quantity, base, _resize(theorem, base, change, size))
            broken = int(outside_interval(bound).sum())
            records.append((quantity, dimension, many, broken))
    return pd.DataFrame(records, columns=["quantity", "dimension", "draws", "violations"])


# ------------------------------------------------------------------ where it fails


def outside(theorem: str, seed: int = 0) -> pd.DataFrame:
    """Cases outside what the estimate assumes (a small perturbation of an unsaturated state).

    Columns ``case, quantity, size, estimate, exact, lower, upper, exact_over_estimate``
    (the ratio is NaN where both are 0).
    """
    cases = _vector_cases() if theorem == "T1" else _logit_cases(seed)
    records = []
    for quantity in quantities(theorem):
        for case, (base, change, temperature) in cases.items():
            bound = evaluate(theorem, quantity, base, change, temperature)
            record = {"case": case, "quantity": quantity}
            record["size"] = float(_size(theorem, base, change) / temperature)
            record |= {name: float(value) for name, value in bound._asdict().items()}
            ratio = record["exact"] / record["estimate"] if record["estimate"] > 0 else np.nan
            records.append(record | {"exact_over_estimate": ratio})
    return pd.DataFrame.from_records(records)


def _vector_cases() -> dict[str, tuple]:
    named = {
        "small: α = 0, β = 0.05": (0.0, 0.05),
        "only along h: α = −0.5, β = 0": (-0.5, 0.0),
        "h grows: α = 1, β = 0.2": (1.0, 0.2),
        "h shrinks: α = −0.8, β = 0.05": (-0.8, 0.05),
        "h nearly cancelled: α = −0.99, β = 0.05": (-0.99, 0.05),
        "large: α = 0, β = 3": (0.0, 3.0),
    }
    h = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return {case: (h, torch.tensor(dh, dtype=torch.float64), 1.0) for case, dh in named.items()}


def _logit_cases(seed: int, n: int = 1000) -> dict[str, tuple]:
    rng = torch.Generator().manual_seed(seed)
    z, noise = (torch.randn(n, generator=rng, dtype=torch.float64) for _ in range(2))
    sure, overtaking = 2 * z.clone(), torch.zeros(n, dtype=torch.float64)
    sure[0] = sure.max() + 20  # the top token holds all but about 1e-8
    overtaking[1] = 25 + sure[0] - 20 - sure[1]  # a change in one other token's logit only
    return {
        "small": (2 * z, 0.05 * noise, 1.0),
        "uniform shift": (2 * z, torch.full_like(z, 7.0), 1.0),
        "large": (2 * z, 3 * noise, 1.0),
        "small, but T = 0.05": (2 * z, 0.05 * noise, 0.05),
        "large, but T = 20": (2 * z, 3 * noise, 20.0),
        "saturated, top token stays": (sure, 0.5 * noise, 1.0),
        "saturated, top token overtaken": (sure, overtaking, 1.0),
    }


# ------------------------------------------------------------------ all of it


def on_paper(theorem: str, seed: int = 0, effort: int = 1) -> pd.DataFrame:
    """All synthetic checks of a theorem in one table (data of ``fig-t*-theory``).

    Columns ``part, quantity, case, size, value, lower, upper``. ``part`` is
    ``remainder`` (value: ``|exact − estimate|``, upper: the proven most),
    ``slope`` (value: log-log slope of that curve), ``worst case`` (value: extreme
    exact/estimate ratio found, lower and upper: the proven extremes), ``proven``
    (the same extremes on a fine grid) or ``random draws`` (size: draws, value:
    points outside the interval). ``effort`` multiplies restarts and draws.
    """
    curves = remainder(theorem, seed)
    draws = random_draws(theorem, seed, draws=5000 * effort)
    draws = draws.groupby("quantity", as_index=False)[["draws", "violations"]].sum()
    parts = {
        "remainder": curves,
        "slope": slopes(curves).rename(columns={"slope": "value"}),
        "worst case": adversarial(theorem, seed, budget=effort),
        "proven": _band(theorem),
        "random draws": draws.rename(columns={"draws": "size", "violations": "value"}).assign(case="all"),
    }
    table = pd.concat([frame.assign(part=name) for name, frame in parts.items()])
    columns = ["part", "quantity", "case", "size", "value", "lower", "upper", "violations"]
    return table.reset_index(drop=True)[columns]


def _band(theorem: str, points: int = 60) -> pd.DataFrame:
    sizes = search_sizes(theorem)
    grid = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.02, points)
    pieces = []
    for quantity in quantities(theorem):
        lower, upper = envelope(theorem, quantity, grid)
        piece = pd.DataFrame({"size": grid, "lower": lower, "upper": upper})
        pieces.append(piece.assign(quantity=quantity, case="band"))
    return pd.concat(pieces, ignore_index=True)
