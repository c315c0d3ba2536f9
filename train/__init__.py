"""Structure extraction, tree-packed data, and the training of backbones and heads."""
