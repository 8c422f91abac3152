"""Model files of ZEISS software."""
