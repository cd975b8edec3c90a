"""What a model's activations say: sparsity, predictors' quality, activated parameters."""
