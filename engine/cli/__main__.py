"""``python -m engine.cli``: the same as ``reflex-engine``."""

from engine.cli import main

main()
