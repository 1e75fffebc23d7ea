NO_ROOM = 74  # the exit code of a child that had no room for what it makes
