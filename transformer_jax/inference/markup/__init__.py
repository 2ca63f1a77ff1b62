"""Text with markup in, text with markup out: HTML and XML whose elements are put back around the translated words."""
