"""What a code is and how it is scanned. It reads a store; it knows no model and no method."""
