"""Pixels out: where predicted images land."""
