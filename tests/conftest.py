"""What holds for all tests: no network, and examples that do not depend on the machine."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("lamina", deadline=None, max_examples=100, derandomize=True)
settings.load_profile("lamina")
