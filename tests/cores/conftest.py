"""Lets the tests of this folder, and the oracles, import ``cases`` and ``oracles.NAME``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
