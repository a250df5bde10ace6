"""Text becomes rows of tokens, one domain at a time: read, split, encode, pack, mix."""
