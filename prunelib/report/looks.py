"""What has which colour, marker and line style: the same thing looks the same in every figure of the book.

Six hues are fewer than the things of the book. Things of one kind (:func:`sublayers`, :func:`readouts`,
:func:`lenses`, :func:`sides`) never share a look, and no figure shows two kinds whose looks meet.
"""

from prunelib.report.style import Style

READOUTS = {"choice": "multiple choice", "forced": "next token, true answer so far", "generation": "generation"}
LENSES = {"raw": "raw lens Wh", "normed": "normed lens W ln(h)"}
SPACES = {"h": "hidden state h", "z": "logits z", "p": "probabilities p"}


def sublayers(style: Style) -> dict[str, dict]:
    """What is dropped: attention, MLP, whole blocks, or attention and MLP ranked together."""
    c, lines = style.colours, style.linestyles
    pairs = zip(("attn", "mlp", "block", "joint"), (c.sky, c.orange, c.purple, style.foreground), strict=True)
    return {
        kind: {"color": colour, "marker": style.markers[i], "ls": lines[i]} for i, (kind, colour) in enumerate(pairs)
    }


def readouts(style: Style) -> dict[str, dict]:
    """How a model is asked; named by :data:`READOUTS`."""
    c = style.colours
    return {
        "choice": {"color": c.blue, "marker": "o", "ls": style.linestyles[0]},
        "forced": {"color": c.green, "marker": "^", "ls": style.linestyles[3]},
        "generation": {"color": c.vermillion, "marker": "s", "ls": style.linestyles[1]},
    }


def lenses(style: Style) -> dict[str, dict]:
    """How a state inside the model is read; named by :data:`LENSES`."""
    c = style.colours
    return {
        "raw": {"color": c.blue, "marker": "o", "ls": style.linestyles[0]},
        "normed": {"color": c.purple, "marker": "D", "ls": style.linestyles[1]},
    }


def spaces(style: Style) -> dict[str, dict]:
    """Where a perturbation is looked at; named by :data:`SPACES`."""
    c = style.colours
    return {
        "h": {"color": c.green, "marker": "^", "ls": style.linestyles[2]},
        "z": {"color": c.blue, "marker": "o", "ls": style.linestyles[0]},
        "p": {"color": c.vermillion, "marker": "s", "ls": style.linestyles[1]},
    }


def sides(style: Style) -> dict[str, dict]:
    """What was measured, what an estimate says of it, and what chance would give."""
    c = style.colours
    return {
        "measured": {"color": c.blue, "marker": "o", "ls": style.linestyles[0]},
        "estimated": {"color": c.vermillion, "marker": "s", "ls": style.linestyles[1]},
        "chance": {"color": c.green, "marker": "^", "ls": style.linestyles[2]},
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
    return {"color": getattr(style.colours, own.colour), "marker": own.marker, "ls": style.linestyles[own.line]}


def model(style: Style, spec: str) -> dict:
    """A model by its specification: the look of what it drops, or else of its method."""
    from prunelib.methods import parse

    if spec == "dense":
        return {"color": style.foreground, "marker": "*", "ls": style.linestyles[0]}
    made = parse(spec)
    dropped = getattr(made, "sublayers", None)
    return sublayers(style)[dropped] if dropped in sublayers(style) else method(style, made.title)
