"""Whether a server takes requests, and how many it has under way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ServerState:
    """One for a server; only its event loop changes it.

    Attributes:
        ready: False from the moment it was told to stop.
        in_flight: requests whose answer is not yet written.
    """

    ready: bool = True
    in_flight: int = 0
