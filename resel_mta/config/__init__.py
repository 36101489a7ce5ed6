"""The configuration: main.cf, the table of all parameters, roles, networks and maps.

`load` reads a file, `Settings.build` makes one in memory; both check every value and raise
`ConfigError` with all problems.
"""

from resel_mta.config.listen import Listener
from resel_mta.config.load import load
from resel_mta.config.problems import ConfigError, Problem
from resel_mta.config.settings import Settings, Source

__all__ = ["ConfigError", "Listener", "Problem", "Settings", "Source", "load"]
