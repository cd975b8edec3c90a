"""Training: a recipe, carried out by Composer in processes of its own."""
