"""How an output appears: locked while it is written, visible only when it is complete."""
