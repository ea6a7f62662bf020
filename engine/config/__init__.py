"""The configuration of one instance (``reflex.yaml``): its model, and how it is read from file or environment."""

from engine.config.loader import load_config, parse_config
from engine.config.model import Config

__all__ = ["Config", "load_config", "parse_config"]
