"""Tiles → image."""
