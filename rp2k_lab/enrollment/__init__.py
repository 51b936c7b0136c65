"""Enroll new products into a trained network: read and check their photos, judge them, say what to expect."""
