"""What holds for all tests: no network, and examples that do not depend on the machine."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As many test processes as cores: with threads of their own they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("lamina", deadline=None, max_examples=100, derandomize=True)
settings.load_profile("lamina")
