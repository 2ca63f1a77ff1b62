"""Text in, text out: lines to pieces, batched search on the devices, and translations in the order of the lines."""
