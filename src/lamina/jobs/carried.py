"""The files of a model that an output needs besides its weights, and where they may lie."""

import os
from pathlib import Path

from lamina.core.errors import CheckpointError
from lamina.weights.checkpoint import inside

CARRIED = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md",
)  # fmt: skip
"""Tokenizer, templates, generation config, licence."""
OF_THE_MODEL = CARRIED[CARRIED.index("generation_config.json") :]
"""What of these does not belong to the tokenizer."""
TEMPLATES = "additional_chat_templates"


def carried_files(home: Path) -> list[str]:
    """Names of the files that an output takes over, `additional_chat_templates/...` too.

    A link out of the folder is refused as it is for weights: what is copied is given to others.

    Raises:
        CheckpointError: a file or its folder is a link that leads elsewhere, or cannot be read.
    """
    names = [name for name in CARRIED if (home / name).is_file()]
    if (home / TEMPLATES).is_dir():
        inside(home, TEMPLATES)
        templates = sorted((home / TEMPLATES).glob("*.jinja"))
        names += [f"{TEMPLATES}/{file.name}" for file in templates if file.is_file()]
    problems = []
    config = ["config.json"] if os.path.lexists(home / "config.json") else []  # an adapter has none
    for name in [*config, *names]:
        try:
            inside(home, name)
        except CheckpointError as error:
            problems.append(str(error))
        if not os.access(home / name, os.R_OK):
            problems.append(f"{home / name} cannot be read, and an output needs it.")
    if problems:
        raise CheckpointError("\n".join(problems))
    return names
