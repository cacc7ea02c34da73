"""A document of the training data: pieces of text with the weight that each has in the loss."""

from __future__ import annotations

# How much more a token of an answer counts than a token of running text.
ANSWER = 4

# (text, weight) pieces. Pieces are encoded one by one, so an answer begins with the blank before its word.
Document = list[tuple[str, int]]


def plain(document: Document) -> str:
    """The text of a document."""
    return "".join(text for text, _ in document)


def tidy(document: Document) -> Document:
    """The same text in as few pieces as possible: neighbours of equal weight joined, the end stripped of whitespace."""
    pieces: Document = []
    for text, weight in document:
        if not text:
            continue
        if pieces and pieces[-1][1] == weight:
            text = pieces.pop()[0] + text
        pieces.append((text, weight))
    while pieces and not pieces[-1][0].strip():
        pieces.pop()
    if pieces:
        pieces[-1] = (pieces[-1][0].rstrip(), pieces[-1][1])
    return pieces
