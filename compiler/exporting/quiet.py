"""Keep the chatter of PyTorch, transformers and the hub client off the user's terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings and log lines below ERROR while the block runs.

    What matters in them is checked by us and raised as an error; the rest ("torchvision is not
    installed", deprecations inside other packages) says nothing about the user's model.
    """
    held = logging.root.manager.disable
    logging.disable(max(held, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(held)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """`quiet`, and no progress bars of transformers such as "Loading weights"."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
