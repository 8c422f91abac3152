"""What a prediction will do: tiles, blocks, order and memory, worked out without reading a pixel."""
