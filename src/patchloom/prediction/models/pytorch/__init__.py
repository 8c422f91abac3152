"""Networks of PyTorch, which is imported when one is used."""
