"""The world in a browser: look at it, drive in it, branch it, compare worlds. `python -m ii_world_env.view` opens it.

`boxes`, `colors` and `overlays` make geometry of labels; `drive`, `drivers`, `session` and `saved` hold a drive and
know no browser; `scene`, `panel`, `curves` and `show` put it on a page (extra `viewer`: viser).
"""
