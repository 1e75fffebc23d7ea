"""What may be ordered: losses, tasks, student families, schemes, exports, each a plug-in in its folder."""
