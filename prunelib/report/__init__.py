"""From a run to a site: figures, claims, values, the paper's numbers, pages, checks."""
