"""What figures call things."""

import pandas as pd

WORDS = {"attn": "attention", "mlp": "MLP"}


def sublayer_name(sublayer: str) -> str:
    """``attn`` -> ``attention``, ``mlp`` -> ``MLP``."""
    return WORDS[sublayer]


def most(numbers: pd.Series) -> float:
    """The largest number that is defined; 0 where none is."""
    return float(numbers.max()) if numbers.notna().any() else 0.0


def percent(share: float) -> str:
    """A share for a caption: ``"46%"``, or "an undefined share" where the dense score is nothing to keep from."""
    return f"{share:.0%}" if pd.notna(share) else "an undefined share"


def number(share: float) -> str:
    """The same for a text alternative: ``"0.46"``."""
    return f"{share:.2f}" if pd.notna(share) else "not defined"
