"""The laws, from a table of runs to fits with intervals: one file per approach, and all of them in the analysis."""
