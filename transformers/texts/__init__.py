"""What is learnt: texts in tokens and what they are to beat, and integer sequences whose exact loss is known."""
