"""Errors of a run and their causes: look-alikes, suspected labels, explanations, the errors' page and the data page."""
