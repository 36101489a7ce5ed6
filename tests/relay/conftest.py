"""The relay's fixtures."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from relay_peers import client, dns, peer, resolver  # noqa: E402

__all__ = ["client", "dns", "peer", "resolver"]
