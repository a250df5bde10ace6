"""Pico networks with an adapter are in `scored_pico`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
