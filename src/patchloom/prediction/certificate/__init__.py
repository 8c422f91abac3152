"""Certificates: finished outputs compared with predictions of larger tiles."""
