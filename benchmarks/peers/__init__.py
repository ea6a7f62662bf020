"""What a user would pick instead. Every module but `environment` is a script for a virtual environment of its own.

A script prints one JSON object as its last line, so that its process, not this one, is what is measured.
"""
