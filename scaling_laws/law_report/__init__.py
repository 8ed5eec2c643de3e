"""What the laws say, in numbers, words and figures: everything here reads an analysis and fits nothing."""
