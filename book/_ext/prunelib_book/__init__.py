"""The book's own Sphinx extension.

``figcard``       a numbered figure with its files, from the run's figure cards
``figure-index``  all figures by chapter
``val``           a number of the run, from the run's manifest
``claims-table``  the ledger of claims
``runs-beside``   claims and curves of the runs beside this one
``objections``    what readers of the paper doubted, and the numbers that answer it
``methods-table`` the registered methods
``profiles-table`` how much each profile measures
``families-table`` what works in each family of models
Terms of the glossary explain themselves where a page first mentions them.

Every page also says of itself what it answers (``meta``).

It reads what ``prunelib book`` put below ``_extra`` in the source folder; those
files are also published as they are, at the top of the site.
"""

from prunelib_book import (
    beside,
    families,
    figcard,
    figindex,
    glossary,
    ledger,
    meta,
    methods,
    objections,
    offline,
    plain,
    profiles,
    search,
    val,
)

_PARTS = (
    *(beside, families, figcard, figindex, glossary, ledger, meta, methods, objections, offline, plain, profiles),
    *(search, val),
)


def setup(app) -> dict:
    for part in _PARTS:
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
