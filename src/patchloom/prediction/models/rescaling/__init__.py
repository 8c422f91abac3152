"""Models that run at another pixel size than that of the image."""
