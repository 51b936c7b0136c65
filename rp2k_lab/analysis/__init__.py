"""What a run gets wrong, and why: causes of errors, look-alikes, suspected labels, explanations and the page of all."""
