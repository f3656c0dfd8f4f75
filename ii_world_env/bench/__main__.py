"""``python -m ii_world_env.bench``: how fast is a step on this machine?"""

from ii_world_env.bench.run import main

if __name__ == "__main__":
    main()
