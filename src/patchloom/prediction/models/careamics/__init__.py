"""Networks trained by CAREamics, from its checkpoints."""
