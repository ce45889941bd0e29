"""``python -m fwp_rl`` is ``fwp-rl``."""

from fwp_rl.cli import main

main()
