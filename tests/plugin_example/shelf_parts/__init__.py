"""Choices for rp2k-lab in a package of their own."""
