"""Tables, figures and statistics over seeds, and the returns that others have published."""
