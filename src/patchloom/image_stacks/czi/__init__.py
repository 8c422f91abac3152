"""CZI files as image stacks (extra `czi`)."""
