"""Questions and answers that a chat model writes itself: what it is tuned on."""
