"""A chat model writes the questions and answers that it is trained on."""
