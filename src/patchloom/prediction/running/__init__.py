"""The run itself: tiles are read, predicted and assembled into blocks."""
