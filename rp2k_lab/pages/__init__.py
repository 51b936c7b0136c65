"""What HTML pages are made of; no page loads anything from a network."""
