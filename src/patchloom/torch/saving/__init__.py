"""Networks saved with what prediction needs."""
