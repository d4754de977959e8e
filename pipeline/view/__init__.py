"""Slides and results to look at: a page for a browser, and the same in a notebook.

`catalogue` knows which slides there are, `layers` and `results` what can be seen of one, `answers`
what a page may ask. `server` carries questions over HTTP, `widget` over a notebook's own
connection; ``page/`` is the viewer itself, in plain JavaScript.
"""
