"""Files of heads: our own, and the layouts of other projects."""
