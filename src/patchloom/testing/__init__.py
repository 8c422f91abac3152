"""Suites of tests that whatever is plugged into Patchloom can inherit, ours and yours."""
