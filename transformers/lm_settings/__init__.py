"""What is asked for: the flags of train.py and noise_scale.py, their recipes, and the settings that come of them."""
