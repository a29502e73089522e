"""Where dropped sublayers leave a gap: runs of them, and the sublayer before each that is still there."""

from collections.abc import Iterable
from typing import NamedTuple

from prunelib.models.sublayers import Site


class Cut(NamedTuple):
    """A maximal run of dropped sublayers: ``before`` is the last one in front of it that is kept, ``last`` its end."""

    before: Site
    last: Site


def cuts(sites: Iterable[Site], layers: int, parallel: bool) -> list[Cut]:
    """The cuts of a model of ``layers`` layers, from front to end; one with nothing kept before it is left out.

    Sublayers stand in the order in which they write to the stream. In a ``parallel`` block both do so at its end,
    and a kept one counts as before a dropped one.

    >>> cuts([Site("mlp", 1), Site("block", 2)], 4, parallel=False)
    [Cut(before=Site(kind='attn', layer=1), last=Site(kind='mlp', layer=2))]
    """
    gone, found = {one for site in sites for one in site.sublayers}, []
    order = []
    for layer in range(layers):
        pair = [Site("attn", layer), Site("mlp", layer)]
        order += sorted(pair, key=lambda site: site in gone) if parallel else pair
    before = last = None
    for site in order:
        if site in gone:
            last = site
            continue
        if before is not None and last is not None:
            found.append(Cut(before, last))
        before, last = site, None
    if before is not None and last is not None:
        found.append(Cut(before, last))
    return found


def beside(sites: Iterable[Site], layers: int) -> list[int]:
    """Layers with a dropped sublayer, and their neighbours."""
    near = {layer for site in sites for layer in (site.layer - 1, site.layer, site.layer + 1)}
    return sorted(layer for layer in near if 0 <= layer < layers)
