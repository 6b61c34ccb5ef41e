"""``python -m sweeps`` is ``ractd``."""

from sweeps.cli import main

main()
