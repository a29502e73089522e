"""Executed notebooks as pages: the cells of our notebooks, and of their outputs what can only be looked at."""

import base64
import html
import json
import re

from prunelib.errors import PrunelibError

_KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
_LONGEST = 5_000_000
_TAGS = {"table", "thead", "tbody", "tfoot", "tr", "th", "td", "caption", "div", "span", "p", "b", "i", "em", "strong",
         "br", "code", "pre", "h4", "h5", "ul", "ol", "li", "sub", "sup", "small", "mark",
         "details", "summary"}  # fmt: skip
_ATTRIBUTES = {"*": {"class", "title", "style"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan", "scope"},
               "table": {"border"}}  # fmt: skip
_CODE = re.compile("`([^`]+)`")
_STYLES = {"text-align", "background-color", "color", "opacity", "font-weight", "font-style", "white-space"}


def read(content: bytes, name: str) -> dict:
    """The notebook in ``content``. Raises PrunelibError naming it where it is none."""
    import nbformat

    try:
        notebook = json.loads(content)
        nbformat.validate(notebook)
    except (ValueError, RecursionError, nbformat.ValidationError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split("\n")[0].split())[:100]
        raise PrunelibError(f"{name} is not a notebook: {reason}") from None
    return notebook


def source_of(cell: dict) -> str:
    """A cell's text, kept as one string or as lines."""
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    found = cell["metadata"].get("tags", [])
    return [tag for tag in found if isinstance(tag, str)] if isinstance(found, list) else []


def is_injected(cell: dict) -> bool:
    """Whether papermill put the cell there, with the parameters of the run."""
    return "injected-parameters" in tags(cell)


def differs(executed: dict, source: dict) -> bool:
    """Whether an executed notebook has other cells than its source, parameters that were put in left aside."""
    own = [(cell["cell_type"], source_of(cell)) for cell in executed["cells"] if not is_injected(cell)]
    return own != [(cell["cell_type"], source_of(cell)) for cell in source["cells"]]


def page(executed: dict) -> dict:
    """An executed notebook as its page shows it.

    The parameters appear once, with the values of this run; run times and papermill's notes, which
    change with each run, are left out, and so is every output that could act on a reader's page.
    """
    lines = [line for cell in executed["cells"] if is_injected(cell) for line in source_of(cell).splitlines()]
    given = dict(line.split(" = ", 1) for line in lines if " = " in line)
    cells = []
    for number, cell in enumerate(cell for cell in executed["cells"] if not is_injected(cell)):
        kept = {"cell_type": cell["cell_type"], "id": f"cell-{number}", "source": source_of(cell), "metadata": {}}
        if cell["cell_type"] == "code":
            if "parameters" in tags(cell):
                kept["source"] = "\n".join(_with_value(line, given) for line in kept["source"].splitlines())
            outputs = [shown for output in cell["outputs"] if (shown := inert(output))]
            kept |= {"outputs": outputs, "execution_count": cell["execution_count"]}
        if tags(cell):
            kept["metadata"] = {"tags": tags(cell)}
        cells.append(kept)
    return {"cells": cells, "metadata": _KERNEL, "nbformat": 4, "nbformat_minor": 5}


def download(executed: dict) -> dict:
    """An executed notebook as it is offered for download: all of it but outputs that could act."""
    cells = [
        cell | {"outputs": [shown for output in cell["outputs"] if (shown := inert(output))]}
        if cell["cell_type"] == "code"
        else cell
        for cell in executed["cells"]
    ]
    return executed | {"cells": cells}


def inert(output: dict) -> dict | None:
    """An output that can only be looked at; None if nothing of it can.

    Of Markdown only code in backticks is set: anything else that it can do, text of a run may not.
    """
    if output["output_type"] == "stream":
        return {"output_type": "stream", "name": output["name"], "text": "".join(output["text"])[:_LONGEST]}
    if output["output_type"] not in ("execute_result", "display_data"):
        return None
    data = output["data"]
    kept = {}
    if isinstance(text := _joined(data.get("text/plain")), str):
        kept["text/plain"] = text
    if isinstance(markup := _joined(data.get("text/html")), str):
        kept["text/html"] = _harmless(markup)
    elif isinstance(words := _joined(data.get("text/markdown")), str):
        kept["text/html"] = _CODE.sub(r"<code>\1</code>", f"<p>{html.escape(words, quote=False)}</p>")
    if isinstance(image := _joined(data.get("image/png")), str) and _is_png(image):
        kept["image/png"] = image
    about = {"execution_count": output.get("execution_count")} if output["output_type"] == "execute_result" else {}
    return {"output_type": output["output_type"], "data": kept, "metadata": {}} | about if kept else None


def _joined(value) -> str | None:
    lines = [value] if isinstance(value, str) else value
    if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
        text = "".join(lines)
        return text if len(text) <= _LONGEST else None
    return None


def _harmless(markup: str) -> str:
    import nh3

    # pandas puts a style sheet before its tables; the book has its own.
    cleaned = nh3.clean(
        markup,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=set(),
        generic_attribute_prefixes=set(),
        filter_style_properties=_STYLES,
        clean_content_tags={"script", "style"},
    )
    return cleaned


def _is_png(text: str) -> bool:
    plain = "".join(text.split())
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", plain):
        return False
    return base64.b64decode(plain[:16]).startswith(b"\x89PNG\r\n\x1a\n")


def _with_value(line: str, given: dict[str, str]) -> str:
    """``name = default  # why`` with the value of this run in place of the default."""
    name, equals, rest = line.partition(" = ")
    if not equals or name not in given:
        return line
    _, comment, why = rest.partition("  #")
    return f"{name} = {given[name]}{comment}{why}"
