"""What has which colour, marker and line style: the same thing looks the same in every figure of the book.

Six hues are fewer than the things of the book. Things of one kind (:func:`sublayers`, :func:`readouts`,
:func:`lenses`, :func:`asked`, :func:`subsets`, :func:`sides`) never share a look, and no figure shows two kinds whose
looks meet.
"""

from prunelib.report.style import Style

READOUTS = {"choice": "multiple choice", "forced": "next token, true answer so far", "generation": "generation"}
ONE_TOKEN = {
    "arithmetic": "arithmetic, one token",
    "brackets": "brackets, one token",
    "generation": "free generation of the items",
}
LENSES = {"raw": "raw lens Wh", "normed": "normed lens W ln(h)"}
ASKED = {"letter": "asked by letter", "text": "asked by whole text"}
SUBSETS = {"whole": "whole vocabulary", "options": "the options", "others": "as many likely others"}
TRAJECTORIES = {
    "direct": "both on the dense text",
    "own": "both on the pruned text",
    "free": "each on its own text",
    "history": "the dense model on both texts",
}
SPACES = {"h": "hidden state h", "z": "logits z", "p": "probabilities p"}
CRITERIA = {
    "cosine": "cosine in the stream",
    "kl": "KL at the output",
    "varp": "Varₚ at the output",
    "tv": "total variation at the output",
    "angular": "angular distance",
    "random": "random",
}
DEVIATIONS = {
    "one_minus_cos_p": "1 − cos p",
    "kl_dense_pruned": "KL(dense ‖ pruned)",
    "kl_pruned_dense": "KL(pruned ‖ dense)",
    "norm_dp": "‖Δp‖₂",
}


def sublayers(style: Style) -> dict[str, dict]:
    """What is dropped: attention, MLP, whole blocks, or attention and MLP ranked together."""
    c, lines = style.colours, style.linestyles
    pairs = zip(("attn", "mlp", "block", "joint"), (c.sky, c.orange, c.purple, style.foreground), strict=True)
    return {
        kind: {"color": colour, "marker": style.markers[i], "ls": lines[i]} for i, (kind, colour) in enumerate(pairs)
    }


def readouts(style: Style) -> dict[str, dict]:
    """How a model is asked; named by :data:`READOUTS`."""
    return {
        "choice": _look(style, "blue", "o", 0),
        "forced": _look(style, "green", "^", 3),
        "generation": _look(style, "vermillion", "s", 1),
    }


def one_token(style: Style) -> dict[str, dict]:
    """Skills that are asked for in one token, beside answers of several; named by :data:`ONE_TOKEN`."""
    return {
        "arithmetic": _look(style, "purple", "D", 0),
        "brackets": _look(style, "sky", "^", 2),
        "generation": _look(style, "vermillion", "s", 1),
    }


def lenses(style: Style) -> dict[str, dict]:
    """How a state inside the model is read; named by :data:`LENSES`."""
    return {
        "raw": _look(style, "blue", "o", 0),
        "normed": _look(style, "purple", "D", 1),
    }


def spaces(style: Style) -> dict[str, dict]:
    """Where a perturbation is looked at; named by :data:`SPACES`."""
    return {
        "h": _look(style, "green", "^", 2),
        "z": _look(style, "blue", "o", 0),
        "p": _look(style, "vermillion", "s", 1),
    }


def asked(style: Style) -> dict[str, dict]:
    """How a multiple-choice item gives its options; named by :data:`ASKED`."""
    return {
        "letter": _look(style, "blue", "o", 0),
        "text": _look(style, "purple", "D", 1),
    }


def subsets(style: Style) -> dict[str, dict]:
    """Over which tokens two distributions are compared; named by :data:`SUBSETS`."""
    return {
        "whole": _look(style, "vermillion", "s", 1),
        "options": _look(style, "blue", "o", 0),
        "others": _look(style, "green", "^", 2),
    }


def confidence(style: Style) -> dict[str, dict]:
    """How sure the dense model is of a token, from least to most (``prunelib.measure.temperature.BANDS``), and all."""
    return {
        "below 0.2": _look(style, "green", "^", 0),
        "0.2 to 0.5": _look(style, "blue", "o", 1),
        "0.5 to 0.9": _look(style, "purple", "D", 2),
        "above 0.9": _look(style, "vermillion", "s", 3),
        "all": {"color": style.foreground, "marker": "P", "ls": style.linestyles[4]},
    }


def tops(style: Style) -> dict[str, dict]:
    """Whether the dense model's top token stays the top of the pruned model."""
    return {"kept": _look(style, "blue", "o", 0), "overtaken": _look(style, "vermillion", "s", 1)}


def sides(style: Style) -> dict[str, dict]:
    """What was measured, what an estimate says of it, and what chance would give."""
    return {
        "measured": _look(style, "blue", "o", 0),
        "estimated": _look(style, "vermillion", "s", 1),
        "chance": _look(style, "green", "^", 2),
    }


def criteria(style: Style) -> dict[str, dict]:
    """By what it is decided which sublayers go; named by :data:`CRITERIA`."""
    return {
        "cosine": _look(style, "blue", "o", 1),
        "kl": _look(style, "vermillion", "s", 0),
        "varp": _look(style, "green", "^", 2),
        "tv": _look(style, "purple", "D", 3),
        "angular": _look(style, "sky", "v", 4),
        "random": {"color": style.foreground, "marker": "P", "ls": style.linestyles[4]},
    }


def trajectories(style: Style) -> dict[str, dict]:
    """Which text the models read; named by :data:`TRAJECTORIES`."""
    return {
        "direct": _look(style, "blue", "o", 0),
        "own": _look(style, "vermillion", "s", 1),
        "free": {"color": style.foreground, "marker": "D", "ls": style.linestyles[3]},
        "history": _look(style, "green", "^", 2),
    }


def paper(style: Style) -> dict:
    """The paper's digitised curves: thin, dashed, without markers."""
    return {"color": style.foreground, "ls": style.linestyles[1], "lw": 1}


def method(style: Style, title: str) -> dict:
    """A method by its title, as it registered itself; the dense model and a drop are in the text's colour."""
    from prunelib.methods.base import registry

    known = {one.title: one.look for one in registry().values() if one.look}
    own = known.get(title.partition(" ")[0])
    if own is None:
        return {"color": style.foreground, "marker": style.markers[0], "ls": style.linestyles[0]}
    return _look(style, own.colour, own.marker, own.line)


def model(style: Style, spec: str) -> dict:
    """A model by its specification: the look of what it drops, or else of its method."""
    from prunelib.methods import parse

    if spec == "dense":
        return {"color": style.foreground, "marker": "*", "ls": style.linestyles[0]}
    made = parse(spec)
    dropped = getattr(made, "sublayers", None)
    return sublayers(style)[dropped] if dropped in sublayers(style) else method(style, made.title)


def _look(style: Style, colour: str, marker: str, line: int) -> dict:
    return {"color": getattr(style.colours, colour), "marker": marker, "ls": style.linestyles[line]}
