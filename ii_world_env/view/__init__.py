"""The world in a browser: look at it, drive in it, branch it, compare worlds. `python -m ii_world_env.view` opens it.

`geometry` makes faces and quads of labels, `drives` holds drives and knows no browser, `page` puts both on a page
(extra `viewer`: viser).
"""
