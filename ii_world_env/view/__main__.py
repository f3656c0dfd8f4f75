"""``python -m ii_world_env.view``: the world in a browser."""

from ii_world_env.view.run import main

if __name__ == "__main__":
    main()
