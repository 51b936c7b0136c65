"""Helpers that every other package may use; this one imports no other."""
