"""Recipient to route: address classes, aliases, transports, and the rewriting of addresses."""

from resel_mta.routing.expand import Expander
from resel_mta.routing.table import EXPAND, RoutingTable

__all__ = ["EXPAND", "Expander", "RoutingTable"]
