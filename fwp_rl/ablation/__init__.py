"""Ablations: a grid of training runs, in worker processes, resumed until all of it is done."""
