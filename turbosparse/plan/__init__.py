"""What a training run will take, before anything is launched and without any GPU."""
