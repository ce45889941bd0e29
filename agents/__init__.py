"""The algorithms, each readable alone, top to bottom. Installed as ``fwp_rl.agents``."""
