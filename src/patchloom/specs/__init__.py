"""Patch specifications: positions of patches, kept parts of tiles, and tables and checks of both."""
