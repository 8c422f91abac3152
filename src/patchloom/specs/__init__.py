"""Patch specifications: where a patch lies, which part of a tile is kept, where it lands."""
