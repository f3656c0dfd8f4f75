"""The page in a browser, on viser."""
