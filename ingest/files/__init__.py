"""Files of people and of other tools, staged, checked and merged. No model is loaded here."""
