"""What is done to a prediction before it is written: the likeliest class, a mask, a few channels, another dtype."""
