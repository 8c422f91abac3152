"""Measures how far a network looks, its stride, scale and margin."""
