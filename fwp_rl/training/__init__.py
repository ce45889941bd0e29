"""What surrounds a training loop. The loops themselves stand in ``fwp_rl.agents``."""
