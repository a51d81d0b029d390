"""Text of others, made fit to be shown."""

from __future__ import annotations


def printable(text: str, most: int = 2_000) -> str:
    """One line of at most `most` characters; what cannot be shown is written as its number, such as `\\x1b`.

    So it moves no cursor, breaks no line and does not turn the text around it.
    """
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
