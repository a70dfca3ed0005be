"""Files that are whole, and bounds on what is read from them."""
