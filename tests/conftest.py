"""Shared by all tests."""

import os

# Set before torch starts OpenMP: threads that spin while they wait stall each other, and the
# tests, wherever something else is running on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
