"""Building blocks of HTML pages; no page loads anything from a network."""
