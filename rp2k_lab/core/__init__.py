"""What every other package may use; it imports none of ours."""
