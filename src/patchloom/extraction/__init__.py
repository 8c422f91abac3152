"""Specs + stacks → pixels."""
