"""Draft sources: where guesses come from, one a file."""
