"""Hydra plugin that adds the folders `conf/` of installed packages to Hydra's search path."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class InstalledChoices(SearchPathPlugin):
    """Add the choices of packages with an entry point `rp2k_lab.plugins`, behind our own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from rp2k_lab.plugins import conf_folders

        for folder in conf_folders():
            search_path.append(provider="rp2k_lab.plugins", path=f"file://{folder}")
