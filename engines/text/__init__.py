"""Text in, answers out: tokenizers only, neither torch nor transformers."""
