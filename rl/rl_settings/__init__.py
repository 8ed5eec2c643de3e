"""What a training run and a comparison are asked for: flags, recipes, what there is to choose from."""
