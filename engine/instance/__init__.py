"""The HTTP surface of one instance."""
