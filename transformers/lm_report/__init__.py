"""What is shown: the figures, tables and sentences of train.py and noise_scale.py."""
