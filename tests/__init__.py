"""The tests of reflex-engine, and what they run against."""
