"""The backbone's token after every node, and which nodes are accepted."""
