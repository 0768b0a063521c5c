"""A study told: in plain words, plots and one HTML page."""
