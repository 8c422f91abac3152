"""What a prediction will do: tiles, blocks, order and memory, computed without reading a pixel."""
