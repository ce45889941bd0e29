"""The commands of ``fwp-rl`` that have much to say: their flags, read before torch is imported."""
