"""Console scripts: one file each. They parse, call, and print."""
