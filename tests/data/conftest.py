"""Puts the kit of chat templates and pico tokenizers within reach."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
