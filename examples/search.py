"""Find the sentences closest to a question.

    python examples/search.py build/minilm "How do I reset my password?" < sentences.txt

Needs a bundle of an embedding model (`make engine`) and one sentence a line on standard input.
"""

from __future__ import annotations

import sys

import fuselage


def main() -> None:
    """Print the three closest sentences with their cosine similarity."""
    bundle, question = sys.argv[1:]
    sentences = [line.strip() for line in sys.stdin if line.strip()]
    with fuselage.pipeline(bundle) as embed:
        vectors = embed(sentences)
        similarity = vectors @ embed(question)
    for index in similarity.argsort()[::-1][:3]:
        print(f"{similarity[index]:.3f}  {sentences[index]}")


if __name__ == "__main__":
    main()
