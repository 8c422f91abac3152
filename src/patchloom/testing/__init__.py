"""Test suites for models, image stacks and image sinks; inherit them to test your own."""
