"""``python -m bluesky_streamrecon`` is the ``streamrecon`` program."""

from bluesky_streamrecon.cli import main

if __name__ == "__main__":
    main()
