"""Packages of bioimage.io: networks with a description of their input, output and processing."""
