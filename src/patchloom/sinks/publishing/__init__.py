"""Publishing of outputs: locked while they are written, visible only when they are complete."""
