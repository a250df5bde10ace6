"""Every message quoted in docs/errors.md is one that the code gives."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"


def texts_of_the_code() -> str:
    """All string constants of the package, one per line, `...` for what is filled in."""
    found = []
    for file in sorted((ROOT / "src" / "lamina").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def quoted() -> list[str]:
    """The messages of the first column, as code spans; `...` cuts one into pieces."""
    column = re.findall(r"^\| (`.*?) \| ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    spans = [found for row in column for found in re.findall(r"``(.+?)``|`(.+?)`", row)]
    pieces = [piece for long, short in spans for piece in (long or short).split("...")]
    return [piece.strip() for piece in pieces if piece.strip()]


def test_every_message_exists() -> None:
    code, messages = texts_of_the_code(), quoted()
    assert len(messages) > 60
    # Two come from the library that reads the command line.
    messages = [m for m in messages if m not in ("Unknown command", "Unknown option")]
    assert [message for message in messages if message not in code] == []
