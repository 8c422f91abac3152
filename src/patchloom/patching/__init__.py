"""Shapes → specs: the strategies that decide where patches lie."""
