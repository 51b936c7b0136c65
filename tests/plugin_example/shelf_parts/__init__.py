"""Choices for rp2k-lab in a separate package."""
