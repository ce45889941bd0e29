"""Speed, measured on the machine at hand: ``fwp-rl bench NAME``.

Every figure is a median over rounds that alternate between what is compared, so that a slow
minute of the machine falls on all alike. Compare figures of one run only.
"""
