"""The demo page: recognize a photo, and enroll a product, in a browser on this machine."""
