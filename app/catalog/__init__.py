"""What may be ordered: losses, tasks, student families, schemes and exports, each a plug-in in a folder of its kind."""
