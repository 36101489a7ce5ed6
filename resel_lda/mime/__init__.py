"""MIME structure on byte offsets: what FETCH and SEARCH need to know of a message."""
