"""Imports everything that an instance imports, whatever its source: what `forked` forks."""

import importlib
import pkgutil

import connectors
import engine

NOT_OF_AN_INSTANCE = ("engine.control", "engine.demo")

for package in (engine, connectors):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(NOT_OF_AN_INSTANCE) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
